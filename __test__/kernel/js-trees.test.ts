import test from 'ava'
import { UblkDevice, worker } from 'ublk-ts'
import { memoryDisk } from '../backends/memory.js'
import { errorsOf, leaveNothingBehind } from '../support/devices.js'
import { sh } from '../support/program.js'

leaveNothingBehind(test)

const MODULE = new URL('../backends/memory.js', import.meta.url)

for (const [form, where] of [
  ['sync', 'a worker'],
  ['batch', 'a worker'],
  ['async', 'a worker'],
  ['async', 'this thread'],
  ['async batch', 'this thread'],
] as const) {
  test(`a source tree lives in a file system on a disk written in JavaScript: ${form} in ${where}`, async t => {
    const bytes = new SharedArrayBuffer(64 * 2 ** 20)
    const backend =
      where === 'a worker' ? worker(MODULE, { bytes, form }) : memoryDisk(new Uint8Array(bytes), form)
    await using disk = await UblkDevice.create({ backend })
    const errors = errorsOf(disk)
    await sh(
      `mnt=/tmp/js-disk; mkdir -p $mnt; mkfs.ext4 -q -E nodiscard "$1"; mount "$1" $mnt
      tar -C node_modules -cf - @types ava commander | tar -C $mnt -xf -
      umount $mnt; mount "$1" $mnt
      for tree in @types ava commander; do diff -r node_modules/$tree $mnt/$tree; done
      rm -r $mnt/@types; fstrim $mnt 2>/dev/null || [ "$2" = async ] || [ "$2" = "async batch" ]
      umount $mnt; fsck.ext4 -fn "$1"`,
      disk.path,
      form,
    )
    t.deepEqual(errors, [])
  })
}
