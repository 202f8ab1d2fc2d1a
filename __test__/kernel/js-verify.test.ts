// processors: 1 and 2
import { UblkDevice, worker } from 'ublk-ts'
import { memoryDisk, type Options } from '../backends/memory.js'
import { errorsOf, leaveNothingBehind } from '../support/devices.js'
import { onTwo, test } from '../support/processors.js'
import { sh } from '../support/program.js'
import { MEBIBYTES, verify } from '../support/verify.js'

leaveNothingBehind(test)

const MODULE = new URL('../backends/memory.js', import.meta.url)
const room = (): SharedArrayBuffer => new SharedArrayBuffer(MEBIBYTES * 2 ** 20)

for (const form of ['sync', 'async', 'batch', 'async batch'] as const) {
  for (const queues of form === 'sync' || form === 'batch' ? [1, 2] : [1]) {
    ;(queues > 1 ? onTwo : test)(
      `what fio writes in mixed sizes is what it reads: ${form} in ${queues} workers`,
      async t => {
        const options: Options = { bytes: room(), form }
        await using disk = await UblkDevice.create({ backend: worker(MODULE, options), queues, maxIo: '1M' })
        const errors = errorsOf(disk)
        await verify(disk.path)
        t.deepEqual(errors, [])
        t.is(disk.stats().length, queues)
      },
    )
  }

  test(`what fio writes in mixed sizes is what it reads: ${form} in this thread`, async t => {
    const backend = memoryDisk(new Uint8Array(room()), form)
    await using disk = await UblkDevice.create({ backend })
    const errors = errorsOf(disk)
    await verify(disk.path)
    t.deepEqual(errors, [])
  })
}

test('a disk can do what its backend has methods for', async t => {
  const bytes = new Uint8Array(2 ** 20)
  await using bare = await UblkDevice.create({
    backend: { size: '1M', read: (_, into) => void into.fill(7) },
  })
  const { readOnly, writeCache, maxDiscard, maxWriteZeroes } = await bare.info()
  t.deepEqual([readOnly, writeCache, maxDiscard, maxWriteZeroes], [true, false, 0, 0])
  t.is(await sh('head -c 4096 "$1" | tr -d "\\007" | wc -c', bare.path), '0\n')

  await using rich = await UblkDevice.create({ backend: memoryDisk(bytes, 'sync') })
  const info = await rich.info()
  t.true(!info.readOnly && info.writeCache && info.maxDiscard > 0 && info.maxWriteZeroes > 0)
})
