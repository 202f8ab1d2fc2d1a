// processors: 1 and 2
import { UblkDevice, worker } from 'ublk-ts'
import type redisDisk from '../../examples/redis-disk.js'
import type { Options as RedisOptions } from '../../examples/redis-disk.js'
import type { Options as SqliteOptions } from '../../examples/sqlite-disk.js'
import { leaveNothingBehind } from '../support/devices.js'
import { onTwo, test } from '../support/processors.js'
import { result, run, sh, shell } from '../support/program.js'
import { Redis } from '../support/redis.js'
import { Server, until } from '../support/server.js'
import { MEBIBYTES, verify } from '../support/verify.js'

leaveNothingBehind(test)

const example = (name: string): URL => new URL(`../examples/${name}.js`, import.meta.url)
const MIB = 2 ** 20

test.before(() => sh('mkdir -p /tmp/disks/mnt'))
test.after.always(() => sh('umount -q /tmp/disks/mnt || true; rm -rf --one-file-system /tmp/disks'))

test('sqlite-disk: what fio writes in mixed sizes is what it reads, and freed chunks go', async t => {
  const options: SqliteOptions = { path: '/tmp/disks/verify.db', size: MEBIBYTES * MIB }
  const chunks = 'sqlite3 /tmp/disks/verify.db "SELECT count(*) FROM chunk"'
  {
    await using disk = await UblkDevice.create({ backend: worker(example('sqlite-disk'), options) })
    await verify(disk.path)
    // From within one chunk to within another: whole ones go, of the others a part is zeroed.
    await sh(
      `dd if=/dev/urandom of=/tmp/disks/before bs=1M count=1 status=none; dd if=/tmp/disks/before of="$1" oflag=direct bs=1M status=none
      fallocate --punch-hole --offset 20480 --length 65536 /tmp/disks/before
      blkdiscard --zeroout --offset 20480 --length 65536 "$1"; blkdiscard --offset 1M --length 8M "$1"
      cmp -n 1M /tmp/disks/before "$1"; cmp -n 8M -i 1M:0 "$1" /dev/zero`,
      disk.path,
    )
  }
  t.is(Number(await sh(chunks)), ((MEBIBYTES - 8) * 1024 - 48) / 16)
})

test('sqlite-disk: a file system outlives its device', async t => {
  const options: SqliteOptions = { path: '/tmp/disks/tree.db', size: 64 * MIB }
  const on = async (script: string): Promise<void> => {
    await using disk = await UblkDevice.create({ backend: worker(example('sqlite-disk'), options) })
    await sh(script, disk.path)
  }
  await on(
    'mkfs.ext4 -q "$1"; mount "$1" /tmp/disks/mnt; cp -r dist examples /tmp/disks/mnt; umount /tmp/disks/mnt',
  )
  await on(
    'fsck.ext4 -fn "$1"; mount "$1" /tmp/disks/mnt; diff -r dist /tmp/disks/mnt/dist; diff -r examples /tmp/disks/mnt/examples; umount /tmp/disks/mnt',
  )
  await t.throwsAsync(
    UblkDevice.create({ backend: worker(example('sqlite-disk'), { ...options, path: '/no/such/dir.db' }) }),
    { message: /unable to open database file/ },
  )
})

test('sqlite-disk: what was synced survives the SIGKILL of its server, and the disk is whole', async t => {
  const options: SqliteOptions = { path: '/tmp/disks/killed.db', size: 64 * MIB }
  const program = `import { UblkDevice, worker } from 'ublk-ts'
    const disk = await UblkDevice.create({ backend: worker('${example('sqlite-disk')}', ${JSON.stringify(options)}) })
    console.log(disk.path)`
  const server = await Server.program(program)
  await sh(
    `mkfs.ext4 -q "$1"; mount "$1" /tmp/disks/mnt; cp -r dist /tmp/disks/mnt; sync -f /tmp/disks/mnt
    dd if=/dev/urandom of=/tmp/disks/mnt/late bs=1M count=8 status=none`,
    server.path,
  )
  t.is((await server.interrupt('SIGKILL')).signal, 'SIGKILL')
  await until(async () => (await run('show', `${server.id}`)).stdout.includes('dead'), 'the device is dead')
  await sh('umount /tmp/disks/mnt')
  t.is((await run('delete', `${server.id}`)).status, 0)

  await using disk = await UblkDevice.create({ backend: worker(example('sqlite-disk'), options) })
  await sh(
    'mount "$1" /tmp/disks/mnt; diff -r dist /tmp/disks/mnt/dist; umount /tmp/disks/mnt; fsck.ext4 -fn "$1"',
    disk.path,
  )
})

const SOCKET = '/tmp/disks/redis.sock'
const redis: RedisOptions = { url: `unix://${SOCKET}`, name: 'disk', size: MEBIBYTES * MIB }

onTwo('redis-disk: what fio writes in mixed sizes is what it reads, and freed chunks go', async t => {
  await using server = await Redis.start(SOCKET)
  const backend = worker(example('redis-disk'), redis)
  await using disk = await UblkDevice.create({ backend, queues: 2 })
  await verify(disk.path)
  await sh(
    `dd if=/dev/urandom of=/tmp/disks/before bs=1M count=1 status=none; dd if=/tmp/disks/before of="$1" oflag=direct bs=1M status=none
    fallocate --punch-hole --offset 49152 --length 262144 /tmp/disks/before
    blkdiscard --zeroout --offset 49152 --length 262144 "$1"; blkdiscard --offset 1M --length 8M "$1"
    cmp -n 1M /tmp/disks/before "$1"; cmp -n 8M -i 1M:0 "$1" /dev/zero`,
    disk.path,
  )
  t.is(Number(await server.ask('dbsize')), ((MEBIBYTES - 8) * 1024 - 192) / 64)
})

test('redis-disk: many requests are under way at a time', async t => {
  await using server = await Redis.start(SOCKET)
  await using disk = await UblkDevice.create({ backend: worker(example('redis-disk'), redis) })
  await server.ask('client pause 60000 write')
  const writing = sh(
    'echo 2 >"/sys/block/$(basename "$1")/queue/nomerges"; cd /tmp/disks; fio --name=x --filename="$1" --size=4m --direct=1 --ioengine=libaio --iodepth=32 --bs=64k --rw=write --output-format=terse',
    disk.path,
  )
  await until(() => disk.stats()[0]?.inFlight === 32, 'all that fio has under way are under way here')
  await server.ask('client unpause')
  await writing
  t.is(Number(await server.ask('dbsize')), 64)
})

test('redis-disk: without its server requests are I/O errors, and with a new one it goes on', async t => {
  await using server = await Redis.start(SOCKET)
  const { default: make } = (await import(example('redis-disk').href)) as { default: typeof redisDisk }
  await using disk = await UblkDevice.create({ backend: await make(redis, { queue: 0 }) })
  const errors: string[] = []
  disk.on('error', ({ message }) => errors.push(message))
  await sh('dd if=/dev/urandom of=/tmp/disks/data bs=1M count=2 status=none')
  const copy = (): Promise<string> =>
    sh('dd if=/tmp/disks/data of="$1" bs=64k oflag=direct; cmp -n 2M /tmp/disks/data "$1"', disk.path)
  await copy()

  await server.ask('client pause 60000 write')
  const waiting = result(shell('dd if=/dev/zero of="$1" bs=64k count=1 oflag=direct', disk.path))
  await until(() => disk.stats()[0]?.inFlight === 1, 'a request waits for the server')
  await server.kill()
  t.regex((await waiting).stderr, /Input\/output error/, 'what the server had taken')
  await t.throwsAsync(copy(), { message: /Input\/output error/ }, 'what it never saw')
  t.true(errors.length >= 2)

  await using _again = await Redis.start(SOCKET)
  await until(
    async () => (await result(shell('dd if="$1" of=/dev/null count=1 iflag=direct', disk.path))).status === 0,
    'the client is back',
  )
  await copy()
})

test('redis-disk: an address where no server is, is told at once', async t => {
  const backend = worker(example('redis-disk'), { ...redis, url: 'unix:///tmp/disks/no.sock' })
  await t.throwsAsync(UblkDevice.create({ backend }), { message: /ENOENT.*no\.sock/ })
})
