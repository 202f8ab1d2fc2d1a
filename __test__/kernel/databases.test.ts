// processors: 2
import test from 'ava'
import { UblkDevice, worker } from 'ublk-ts'
import type { Options } from '../backends/mortal.js'
import { leaveNothingBehind } from '../support/devices.js'
import { sh } from '../support/program.js'
import { until } from '../support/server.js'
import { SqliteWriter } from '../support/sqlite.js'

leaveNothingBehind(test)

const DIR = '/tmp/databases'
const MODULE = new URL('../backends/mortal.js', import.meta.url)
const DEATHS = 10

test.before(() => sh(`mkdir -p ${DIR}/mnt`))
test.after.always(() => sh(`umount -q ${DIR}/mnt || true; rm -rf --one-file-system ${DIR}`))

/** A disk whose server dies when asked, and is replaced. */
async function mortalDisk(mebibytes: number): Promise<{ disk: UblkDevice; die: () => Promise<void> }> {
  const options: Options = {
    bytes: new SharedArrayBuffer(mebibytes * 2 ** 20),
    told: new SharedArrayBuffer(4),
  }
  const disk = await UblkDevice.create({
    backend: worker(MODULE, options),
    queues: 2,
    recovery: 'reissue',
  })
  disk.on('error', () => {})
  const die = async (): Promise<void> => {
    const recovered = new Promise<void>(resolve => disk.once('recovered', () => resolve()))
    Atomics.store(new Int32Array(options.told), 0, 1)
    await recovered
  }
  return { disk, die }
}

test("SQLite keeps every transaction while its disk's server dies again and again", async t => {
  const { disk, die } = await mortalDisk(256)
  await using _ = disk
  await sh(`mkfs.ext4 -q "$1"; mount "$1" ${DIR}/mnt`, disk.path)
  const writers = [new SqliteWriter(`${DIR}/mnt`, 'WAL'), new SqliteWriter(`${DIR}/mnt`, 'DELETE')]
  const committed = (): number => Math.min(...writers.map(writer => writer.committed))
  for (const writer of writers) await writer.start()
  for (let death = 1; death <= DEATHS; death++) {
    await until(() => committed() >= death * 5, 'transactions are committed')
    await die()
  }
  for (const writer of writers) await writer.stop()

  for (const writer of writers) await writer.check(t)
  // Once more, from the disk.
  await sh(`umount ${DIR}/mnt; fsck.ext4 -fn "$1"; mount "$1" ${DIR}/mnt`, disk.path)
  for (const writer of writers) await writer.check(t)
  await sh(`umount ${DIR}/mnt`)
})
