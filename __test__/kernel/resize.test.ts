// processors: 2
import { statSync } from 'node:fs'
import test from 'ava'
import { file, memory, nullDisk, UblkDevice, worker } from 'ublk-ts'
import { leaveNothingBehind } from '../support/devices.js'
import { result, sh, shell } from '../support/program.js'
import { until } from '../support/server.js'

leaveNothingBehind(test)

const MIB = 2 ** 20
const inFile = new URL('../backends/in-file.js', import.meta.url)
const disk = '/dev/shm/resized'

const backends = {
  memory: () => memory(16 * MIB),
  'a memory file': () => memory(16 * MIB, { file: disk }),
  file: () => file(disk),
  worker: () => worker(inFile, { path: disk, size: 16 * MIB }),
}

for (const [kind, backend] of Object.entries(backends)) {
  test(`a file system grows with its ${kind} disk, and a checked load goes on`, async t => {
    await sh('truncate -s 16M "$1"', disk)
    await using device = await UblkDevice.create({ backend: backend(), queues: 2 })
    await sh('mkfs.ext4 -q "$1"; mkdir -p /tmp/m; mount "$1" /tmp/m; echo before >/tmp/m/x', device.path)
    const load = sh(
      'cd /tmp; fio --name=x --filename=/tmp/m/load --ioengine=libaio --direct=1 --rw=randwrite --bs=4k --size=4m --loops=3 --iodepth=16 --verify=crc32c --output-format=terse',
    )
    for (const size of [24, 33, 64]) {
      await device.resize(size * MIB)
      t.is(device.size, size * MIB)
      t.is(await sh('blockdev --getsize64 "$1"', device.path), `${size * MIB}\n`)
    }
    await sh('resize2fs "$1"', device.path)
    await load
    await sh(
      'dd if=/dev/urandom of=/tmp/m/big bs=1M count=40 conv=fsync status=none; umount /tmp/m',
      device.path,
    )
    await sh('fsck.ext4 -fn "$1"', device.path)
    if (kind !== 'memory') t.is(statSync(disk).size, 64 * MIB)
    await sh('rm "$1"', disk)
  })
}

test('what a disk loses when it shrinks does not come back when it grows', async t => {
  for (const backend of [memory(16 * MIB), memory(16 * MIB, { file: disk })]) {
    await using device = await UblkDevice.create({ backend })
    await sh('dd if=<(yes) of="$1" bs=1M count=16 iflag=fullblock oflag=direct status=none', device.path)
    await device.resize('8M')
    t.is(await sh('blockdev --getsize64 "$1"', device.path), `${8 * MIB}\n`)
    await device.resize('16M')
    await sh('cmp -n 8M "$1" <(yes)', device.path)
    await sh('cmp -n 8M <(tail -c 8M "$1") /dev/zero', device.path)
  }
  await sh('rm "$1"', disk)
})

test('a disk whose backend refuses a size keeps the one that it has', async t => {
  const size = 16 * MIB
  await using device = await UblkDevice.create({
    backend: {
      size,
      read: (_, into) => void into.fill(0),
      resize: () => {
        throw new Error('no')
      },
    },
  })
  for (const other of [8 * MIB, 32 * MIB]) {
    await t.throwsAsync(device.resize(other), { message: /no/ })
    t.is(device.size, size)
    t.is(await sh('blockdev --getsize64 "$1"', device.path), `${size}\n`)
  }
})

test('a disk that somebody uses shrinks only by force', async t => {
  await using device = await UblkDevice.create({ backend: nullDisk('16M') })
  const user = shell('exec sleep 60 <"$1"', device.path)
  await until(async () => (await device.users()).length > 0, 'the disk is open')
  await t.throwsAsync(device.resize('8M'), {
    message: /is in use \(open by sleep \(\d+\)\): shrinking it would cut them off/,
  })
  await device.resize('32M')
  await device.resize('8M', { force: true })
  t.is(device.size, 8 * MIB)
  user.kill()
  await result(user)
})

test('sizes and disks that cannot be are refused', async t => {
  await using device = await UblkDevice.create({ backend: memory('16M'), blockSize: 4096 })
  await t.throwsAsync(device.resize(0), { message: 'the size 0 is not possible' })
  await t.throwsAsync(device.resize(6144), { message: 'the size 6144 is not possible' })
  await t.throwsAsync(device.resize('many'), { message: "size 'many' is not understood" })
  t.is((await device.info()).size, 16 * MIB)
  await using fixed = await UblkDevice.create({ backend: { size: MIB, read() {} } })
  await t.throwsAsync(fixed.resize('2M'), { message: 'the backend cannot be resized' })
  t.is((await fixed.info()).size, MIB)
  await sh('truncate -s 16M "$1"; losetup /dev/loop0 "$1"', disk)
  await using stacked = await UblkDevice.create({ backend: file('/dev/loop0') })
  await t.throwsAsync(stacked.resize('32M'), { message: 'the block device has only 16777216 bytes' })
  await stacked.resize('8M')
  await stacked.delete()
  await sh('losetup -d /dev/loop0; rm "$1"', disk)
})
