// seconds: 30
import test from 'ava'
import { type ServedDevice, UblkDevice, worker } from 'ublk-ts'
import type { Options as FencedOptions } from '../../examples/etcd-fence.js'
import type { Options as PostgresqlOptions } from '../../examples/postgresql-disk.js'
import { leaveNothingBehind } from '../support/devices.js'
import { result, sh, shell } from '../support/program.js'
import { Redis } from '../support/redis.js'
import { until } from '../support/server.js'
import { Etcd, Postgresql } from '../support/stores.js'
import { MEBIBYTES, verify } from '../support/verify.js'

leaveNothingBehind(test)

const example = (name: string): URL => new URL(`../examples/${name}.js`, import.meta.url)
const DIR = '/tmp/stores'
const MIB = 2 ** 20

test.before(() => sh('mkdir -p "$1"', DIR))
test.after.always(() => sh('rm -rf --one-file-system "$1"', DIR))

const inPostgresql = (url: string): PostgresqlOptions => ({ url, name: 'first', size: MEBIBYTES * MIB })

test('postgresql-disk: what fio writes in mixed sizes is what it reads, and freed chunks go', async t => {
  await using server = await Postgresql.start(await Postgresql.init(DIR))
  const backend = worker(example('postgresql-disk'), inPostgresql(server.url))
  await using disk = await UblkDevice.create({ backend })
  await verify(disk.path)
  await sh(
    `dd if=/dev/urandom of="$2/before" bs=1M count=1 status=none; dd if="$2/before" of="$1" oflag=direct bs=1M status=none
    fallocate --punch-hole --offset 20480 --length 65536 "$2/before"
    blkdiscard --zeroout --offset 20480 --length 65536 "$1"; blkdiscard --offset 1M --length 8M "$1"
    cmp -n 1M "$2/before" "$1"; cmp -n 8M -i 1M:0 "$1" /dev/zero`,
    disk.path,
    DIR,
  )
  t.is(Number(await server.ask('SELECT count(*) FROM disk_chunk')), ((MEBIBYTES - 8) * 1024 - 48) / 16)
})

test('postgresql-disk: a disk has one session, and one that is lost does not come back', async t => {
  const dir = await Postgresql.init(DIR)
  const options = inPostgresql(`postgresql://postgres@/postgres?host=${dir}`)
  const create = async (): Promise<ServedDevice> =>
    await UblkDevice.create({ backend: worker(example('postgresql-disk'), options) })
  const direct = 'bs=64k count=1 oflag=direct status=none'
  {
    await using server = await Postgresql.start(dir)
    await using disk = await create()
    await t.throwsAsync(create(), { message: /the disk first is in use by another session/ })
    // What was flushed survives the crash of the server; what was not need not.
    await sh(
      `dd if=/dev/urandom of="$2/data" bs=64k count=8 status=none
      dd if="$2/data" of="$1" bs=64k oflag=direct conv=fsync status=none; dd if=/dev/zero of="$1" ${direct} seek=16`,
      disk.path,
      DIR,
    )
    await server.kill()
    await t.throwsAsync(sh(`dd if=/dev/zero of="$1" ${direct}`, disk.path), {
      message: /Input\/output error/,
    })
    await using _again = await Postgresql.start(dir)
    await t.throwsAsync(sh(`dd if=/dev/zero of="$1" ${direct}`, disk.path), {
      message: /Input\/output error/,
    })
    await using next = await create()
    await sh('cmp -n 512K "$1" "$2/data"', next.path, DIR)
  }
})

test('etcd-fence: a disk serves only while its lease is surely its own', async t => {
  const socket = `${DIR}/redis.sock`
  await using _redis = await Redis.start(socket)
  await using etcd = await Etcd.start(DIR)
  const options: FencedOptions = {
    url: `unix://${socket}`,
    name: 'fenced',
    size: 16 * MIB,
    etcd: Etcd.url,
    ttl: 6,
  }
  const create = async (): Promise<ServedDevice> =>
    await UblkDevice.create({ backend: worker(example('etcd-fence'), options) })
  const read = async (path: string): Promise<number | null> =>
    (await result(shell('dd if="$1" of=/dev/null bs=64k count=1 iflag=direct', path))).status
  await using disk = await create()
  await verify(disk.path, ['random-16'], '8m')
  await t.throwsAsync(create(), { message: /the disk fenced belongs to another machine/ })

  // It cannot renew its lease: it stops before that ends, and does not go on.
  etcd.signal('SIGSTOP')
  t.is(await read(disk.path), 0)
  await until(async () => (await read(disk.path)) !== 0, 'it stops')
  etcd.signal('SIGCONT')
  let next: ServedDevice | undefined
  await until(async () => {
    next = await create().catch(() => undefined)
    return next !== undefined
  }, 'another one gets it')
  t.is(await read(next?.path ?? ''), 0)
  t.not(await read(disk.path), 0)
  await next?.[Symbol.asyncDispose]()
})
