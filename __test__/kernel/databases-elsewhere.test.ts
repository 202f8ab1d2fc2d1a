// processors: 2
// seconds: 120
/** SQLite and PostgreSQL on disks whose bytes a server or an object store has, while what serves the disk is killed. */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import test from 'ava'
import { Detached, leaveNoServerBehind } from '../support/detached.js'
import { NbdServer } from '../support/nbd-server.js'
import { run, sh } from '../support/program.js'
import { until } from '../support/server.js'
import { SqliteWriter } from '../support/sqlite.js'
import { Postgresql } from '../support/stores.js'
import { Versitygw } from '../support/versitygw.js'

leaveNoServerBehind(test)

const DIR = mkdtempSync('/tmp/databases-elsewhere-')
const MOUNT = `${DIR}/mnt`
const SOCKET = `${DIR}/socket`
const KILLS = Number(process.env['UBLK_TS_KILLS'] ?? 2)

test.beforeEach(() => sh('rm -rf "$1"; mkdir -p "$1/mnt"', DIR))
test.afterEach.always(() => sh('if mountpoint -q "$1"; then umount "$1"; fi', MOUNT))
test.after.always(() => rmSync(DIR, { recursive: true, force: true }))

const nbdkit = (words: string) => async (): Promise<AsyncDisposable> => {
  await sh('truncate -s 256M "$1/image"', DIR)
  return await NbdServer.nbdkit(words, SOCKET)
}
const versitygw = async (): Promise<AsyncDisposable> => {
  const server = new Versitygw()
  mkdirSync(`${DIR}/store`)
  await server.start(`${DIR}/store`)
  Versitygw.announce()
  return server
}

const NBD = `--nbd nbd+unix:///?socket=${SOCKET} --journal 64M`
const VOLUME = `--s3 s3://disks/a --cache ${DIR}/cache --cache-max 128M --volume-size 256M`

/** What a disk takes, and the server that it needs. */
const DISKS: [name: string, words: string, server: () => Promise<AsyncDisposable>][] = [
  ["nbdkit's memory", NBD, nbdkit('memory 256M')],
  ["nbdkit's file", NBD, nbdkit(`file ${DIR}/image`)],
  [
    'qcow2 of qemu-nbd',
    NBD,
    async () => {
      await sh('qemu-img create -q -f qcow2 "$1/image" 256M', DIR)
      return await NbdServer.start(`qemu-nbd -t -e 16 -k ${SOCKET} -f qcow2 ${DIR}/image`, SOCKET)
    },
  ],
  ['a volume, object', VOLUME, versitygw],
  ['a volume, local', `${VOLUME} --durable local`, versitygw],
]

for (const [name, words, start] of DISKS) {
  const onVolume = start === versitygw
  test.serial(`databases keep every transaction on ${name}, while the disk's server is killed`, async t => {
    if (onVolume && !Versitygw.isBuilt(t)) return
    t.timeout(300_000 + KILLS * 20_000)
    await using _server = await start()
    let disk = await Detached.create(`${words} --recovery reissue`)
    await sh('mkfs.ext4 -q "$1"; mount "$1" "$2"; chmod 755 "$3"', disk.path, MOUNT, DIR)
    const writers = [new SqliteWriter(MOUNT, 'WAL'), new SqliteWriter(MOUNT, 'DELETE')]
    for (const writer of writers) await writer.start()
    const data = await Postgresql.init(MOUNT)
    let postgresql = await Postgresql.start(data)
    await postgresql.ask('CREATE TABLE ledger (number integer primary key)')
    let [number, stopping] = [0, false]
    const inserts = async (): Promise<void> => {
      while (!stopping) {
        await postgresql.ask(`INSERT INTO ledger VALUES (${number + 1})`)
        number++
      }
    }
    const inserting = inserts()
    const committed = (): number => Math.min(number, ...writers.map(writer => writer.committed))
    for (let kill = 1; kill <= KILLS; kill++) {
      const before = committed()
      await until(() => committed() >= before + 3, 'transactions are committed')
      await disk.signal('SIGKILL')
      t.is((await run('recover', disk.path)).status, 0)
    }
    const before = committed()
    await until(() => committed() >= before + 3, 'transactions are committed')
    stopping = true
    await inserting
    for (const writer of writers) await writer.stop()
    await postgresql.kill()
    await sh('umount "$1"', MOUNT)
    if (onVolume) {
      // As on another machine.
      t.is((await run('delete', disk.path)).status, 0)
      rmSync(`${DIR}/cache`, { recursive: true })
      disk = await Detached.create(`${words} --recovery reissue`)
    }
    await sh('mount "$1" "$2"; umount "$2"; fsck.ext4 -fn "$1" 2>&1; mount "$1" "$2"', disk.path, MOUNT)
    for (const writer of writers) await writer.check(t)
    postgresql = await Postgresql.start(data)
    t.is(await postgresql.ask('SELECT count(*), max(number) FROM ledger'), `${number}|${number}\n`)
    t.log(
      `${number} transactions of PostgreSQL, ${writers.map(({ committed }) => committed).join(' and ')} of SQLite`,
    )
    await postgresql.kill()
    await sh('umount "$1"', MOUNT)
    t.is((await run('delete', disk.path)).status, 0)
  })
}
