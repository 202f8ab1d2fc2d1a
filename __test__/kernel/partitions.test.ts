import { existsSync } from 'node:fs'
import test from 'ava'
import { file, UblkDevice } from 'ublk-ts'
import { leaveNothingBehind } from '../support/devices.js'
import { sh } from '../support/program.js'
import { until } from '../support/server.js'

leaveNothingBehind(test)

const IMAGE = '/tmp/partitioned'

test.before(() => sh('truncate -s 16M "$1"; echo start=2048 | sfdisk -q "$1"', IMAGE))

test('partitions appear with the disk', async t => {
  await using disk = await UblkDevice.create({ backend: file(IMAGE) })
  await until(() => existsSync(`${disk.path}p1`), 'the partition is there')
  t.is(await sh('blockdev --getsize64 "$1p1"', disk.path), `${15 * 2 ** 20}\n`)
})

test('a disk without a partition scan is not read, and its partitions appear when asked for', async t => {
  await using disk = await UblkDevice.create({ backend: file(IMAGE), partitionScan: false })
  t.true((await disk.info()).flags.includes('NO_AUTO_PART_SCAN'))
  t.is(disk.stats()[0]?.read.ops, 0)
  t.false(existsSync(`${disk.path}p1`))
  await sh('blockdev --rereadpt "$1"', disk.path)
  await until(() => existsSync(`${disk.path}p1`), 'the partition is there')
})
