// processors: 1 and 2
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { DiskPool, file, memory, overlay, slice, stripe, tracked, UblkDevice, type UblkError } from 'ublk-ts'
import { leaveNoServerBehind } from '../support/detached.js'
import { errorsOf } from '../support/devices.js'
import { onTwo, test } from '../support/processors.js'
import { FLAGS, MAIN, result, run, sh, shell } from '../support/program.js'
import { Server, until } from '../support/server.js'
import { verify } from '../support/verify.js'

leaveNoServerBehind(test)

const MIB = 2 ** 20
const SIZE = 24 * MIB
const DIR = mkdtempSync('/dev/shm/pool-')
const at = (name: string): string => join(DIR, name)
const BASE = at('base')
const JOBS = ['random-16']

let sum = ''
test.before('a base with a file system', async () => {
  await sh(
    `cd "$1"; mkdir mnt; truncate -s ${SIZE} base; mkfs.ext4 -q base; mount -o loop base mnt
     head -c 4M /dev/urandom >mnt/first; sha256sum mnt/first >sums; umount mnt; truncate -s 8M left right 4k
     echo start=2048 | sfdisk -q left`,
    DIR,
  )
  sum = await sh('sha256sum <"$1"', BASE)
})
test.after.always(() => rmSync(DIR, { recursive: true }))
test.afterEach.always('the base is as it was', async t => t.is(await sh('sha256sum <"$1"', BASE), sum))

/** The numbers of the devices that exist. */
const ids = async (): Promise<number[]> => (await UblkDevice.list()).map(({ id }) => id)

test('a spare disk is empty, and one that was taken has the size and content of its backend', async t => {
  await using pool = new DiskPool({ base: file(BASE), spare: 2, threads: 'shared' })
  await pool.filled()
  t.is(pool.spares, 2)
  const spares = await UblkDevice.list()
  t.deepEqual(
    spares.map(({ size, state }) => [size, state]),
    [
      [0, 'live'],
      [0, 'live'],
    ],
  )
  // As udev does; nothing of an empty disk can be read, or stay in the page cache.
  for (const { path } of spares)
    await sh('blkid -p "$1" || test $? = 2; test "$(dd if="$1" status=none | wc -c)" = 0', path)
  const events = shell('timeout 20 udevadm monitor --kernel --subsystem-match=block')
  await new Promise(resolve => events.stdout?.once('data', resolve))
  const seen = result(events)
  const disk = await pool.take({ upper: at('one.cow') })
  t.true(spares.some(({ id }) => id === disk.id))
  t.is(disk.size, SIZE)
  t.is(disk.choice?.copy, 'zero')
  const errors = errorsOf(disk)
  t.is(await sh('sha256sum <"$1"', disk.path), sum) // through the page cache
  t.is(await sh('blockdev --getsize64 "$1"', disk.path), `${SIZE}\n`)
  t.is(await sh('lsblk -bno SIZE "$1"', disk.path), `${SIZE}\n`)
  await sh(
    `cd "$2"; mount "$1" mnt; sha256sum --quiet -c sums; head -c 2M /dev/urandom >mnt/own; (cd mnt; sha256sum own) >own
     rm mnt/first; fstrim mnt; umount mnt; e2fsck -fn "$1"`,
    disk.path,
    DIR,
  )
  // It is a disk like any other: it can be reset, stopped and started.
  await disk.snapshot('used')
  await disk.stop()
  await disk.start()
  await sh(
    'cd "$2"; mount "$1" mnt; (cd mnt; test ! -e first; sha256sum --quiet -c ../own); umount mnt',
    disk.path,
    DIR,
  )
  await disk.delete()
  events.kill()
  t.regex((await seen).stdout, new RegExp(`change .*/ublkb${disk.id} `))
  t.deepEqual(errors, [])
  await pool.filled()
})

onTwo('disks of all kinds are taken, and are independent of their pool', async t => {
  const pool = new DiskPool({ spare: 3, queues: 2, copy: 'copy' })
  await pool.filled()
  const backends = {
    file: file(at('left')),
    memory: memory('8M'),
    stripe: stripe([slice(file(at('right')), { size: '4M' }), slice(file(at('right')), { offset: '4M' })]),
    overlay: overlay(file(BASE)),
    tracked: tracked(memory('8M'), { map: at('map') }),
  }
  const disks = []
  for (const [name, backend] of Object.entries(backends)) {
    const disk = await pool.take({ backend })
    disks.push(disk)
    if (name !== 'overlay') await verify(disk.path, JOBS, '8m')
  }
  t.is((await disks.at(-1)?.checkpoints())?.length, 0)
  const [taken] = disks
  if (!taken) throw new Error('no disk')
  await pool.close()
  await pool.close()
  t.deepEqual(
    await ids(),
    disks.map(({ id }) => id).sort((a, b) => a - b),
  )
  t.is((await t.throwsAsync<UblkError>(pool.take({ backend: memory('1M') }))).kind, 'closed')
  t.is((await t.throwsAsync<UblkError>(pool.filled())).kind, 'closed')
  await verify(taken.path, JOBS, '8m')
  for (const disk of disks) await disk.delete()
})

test('partitions are found, and changes are observed', async t => {
  await sh('truncate -s 8M "$1"; echo start=2048 | sfdisk -q "$1"', at('parts'))
  await using pool = new DiskPool({ spare: 1 })
  await pool.filled()
  const changes: number[] = []
  const disk = await pool.take({
    backend: file(at('parts')),
    observe: some => void changes.push(some.length),
  })
  await until(() => existsSync(`${disk.path}p1`), 'the partition is there')
  t.is(await sh('blockdev --getsize64 "$1p1"', disk.path), `${7 * MIB}\n`)
  await sh('echo a | dd of="$1"p1 oflag=sync status=none', disk.path)
  await until(() => changes.length > 0, 'the change is told')
  await disk.delete({ wait: true })
})

test('a backend that does not fit is refused, and the disk stays in the pool', async t => {
  await using pool = new DiskPool({ spare: 1 })
  await pool.filled()
  const before = await ids()
  const refused = async (backend: Parameters<typeof pool.take>[0]): Promise<string> => {
    const { message, hint } = await t.throwsAsync<UblkError>(pool.take(backend))
    return `${message}; ${hint}`
  }
  t.is(
    await refused({ backend: memory('8M') }),
    'the disk was made with copy zero, which the backend cannot serve; make it with copy copy, which any backend can serve',
  )
  t.regex(await refused({ backend: file(at('none')) }), /^cannot open .*none: No such file/)
  writeFileSync(at('odd'), 'x'.repeat(700))
  t.regex(
    await refused({ backend: file(at('odd')) }),
    /^the size 700 is not a multiple of the block size 512; 1024 would/,
  )
  t.regex(await refused({}), /^take\(\) needs a backend; such as overlay/)
  const disk = await UblkDevice.create({ backend: file(at('left')) })
  t.regex(await refused({ backend: file(at('left')) }), /left is in use: .*; end that first/)
  await disk.delete()
  t.is(pool.spares, 1)
  t.deepEqual(await ids(), before)
  await (await pool.take({ backend: file(at('left')) })).delete()
})

test('while no disk can be created, that is told less and less often, and the pool fills when it can again', async t => {
  await sh('mv /dev/ublk-control /dev/ublk-elsewhere')
  let server: Server
  try {
    server = await Server.program(`
      import { setTimeout as sleep } from 'node:timers/promises'
      import { DiskPool, memory } from 'ublk-ts'
      const pool = new DiskPool({ spare: 2 })
      const errors = []
      pool.on('error', ({ kind }) => errors.push(kind))
      const filled = await pool.filled().catch(({ kind }) => kind)
      const taken = await pool.take({ backend: memory('1M') }).catch(({ kind }) => kind)
      await sleep(1200)
      console.log(JSON.stringify({ filled, taken, last: pool.lastError.kind, errors: errors.length, spares: pool.spares }))
      while (pool.spares < 2) await sleep(10)
      await pool.filled()
      await pool.close()
      console.log(JSON.stringify({ last: pool.lastError, spares: pool.spares }))`)
    const { errors, ...rest } = JSON.parse(server.line)
    t.deepEqual(rest, { filled: 'no-driver', taken: 'no-driver', last: 'no-driver', spares: 0 })
    // After 0.1, 0.2, 0.4 and 0.8 seconds.
    t.true(errors >= 2 && errors <= 5, `${errors}`)
  } finally {
    await sh('mv /dev/ublk-elsewhere /dev/ublk-control')
  }
  const { status, stdout, stderr } = await server.ended
  t.is(status, 0, stderr)
  t.is(stdout.split('\n')[1], '{"spares":0}')
})

test('a spare disk that another process deletes is replaced, and is not taken', async t => {
  await using pool = new DiskPool({ base: file(BASE), spare: 1, copy: 'copy' })
  await pool.filled()
  const errors: string[] = []
  pool.on('error', ({ message }) => errors.push(message))
  const [spare] = await ids()
  t.is((await run('delete', '--force', `${spare}`)).status, 0)
  await until(() => errors.length > 0, 'the loss is told')
  t.deepEqual(errors, [`device ${spare} was stopped by another process`])
  const disk = await pool.take()
  t.is(await sh('sha256sum <"$1"', disk.path), sum)
  await disk.delete()
  await until(() => pool.spares === 1, 'there is another one')
})

test('a spare disk whose deletion is not noticed yet costs no caller', async t => {
  await using pool = new DiskPool({ base: file(BASE), spare: 1, copy: 'copy' })
  pool.on('error', () => {})
  await pool.filled()
  const [spare] = await ids()
  // Without a turn of this process's event loop.
  const { status, stderr } = spawnSync(process.execPath, [...FLAGS, MAIN, 'delete', '--force', `${spare}`], {
    encoding: 'utf8',
  })
  t.is(status, 0, stderr)
  const disk = await pool.take()
  t.is(await sh('sha256sum <"$1"', disk.path), sum)
  await disk.delete()
  await pool.filled()
  t.is(pool.spares, 1)
})

onTwo(
  'a taken disk survives the kill of its server, and what was to spare goes with the next pool',
  async t => {
    const backend = `overlay(file('${BASE}'), { upper: '${at('kept.cow')}' })`
    const server = await Server.program(`
    import { DiskPool, file, overlay } from 'ublk-ts'
    const pool = new DiskPool({ spare: 2, recovery: 'reissue', queues: 2 })
    await pool.filled()
    const disk = await pool.take({ backend: ${backend}, record: true })
    await pool.filled()
    console.log(disk.path)`)
    const [shown] = JSON.parse((await run('show', '--json', `${server.id}`)).stdout).ublkdevices
    t.like(shown, { size: SIZE, backend: 'overlay' }, JSON.stringify(shown))
    t.regex((await run('list')).stdout, /overlay.*kept\.cow/)
    const load = result(
      shell(
        `fio --name=x --filename="$1" --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite --bsrange=512-64k --size=12m \
         --loops=2 --verify=crc32c --verify_fatal=1 --randrepeat=0 --verify_state_save=0 --rate=8m,8m`,
        server.path,
      ),
    )
    await sleep(500)
    await server.interrupt('SIGKILL')
    t.deepEqual(await run('recover', '--detach', server.path), {
      status: 0,
      signal: null,
      stdout: `${server.path}\n`,
      stderr: '',
    })
    const { status, stderr } = await load
    t.is(status, 0, stderr)
    t.is((await run('upgrade', server.path)).status, 0)
    t.is((await UblkDevice.list()).filter(({ size }) => size === 0).length, 2)
    {
      await using pool = new DiskPool({ spare: 1 })
      await pool.filled()
      t.deepEqual(
        (await UblkDevice.list()).filter(({ size }) => size === 0).map(({ pid }) => pid),
        [process.pid],
      )
    }
    t.is((await run('delete', server.path)).status, 0)
  },
)

test('a server that is killed while its disk is looked at for partitions ends, and the disk can be recovered', async t => {
  const medium = await sh(
    `truncate -s 8M "$1"; loop=$(losetup -f --show "$1"); dmsetup create slow --table "0 16384 linear $loop 0"
     dmsetup suspend slow; dmsetup info -c --noheadings -o blkdevname slow`,
    at('slow'),
  )
  try {
    const server = await Server.program(`
      import { DiskPool, file } from 'ublk-ts'
      const pool = new DiskPool({ spare: 1, recovery: 'reissue' })
      await pool.filled()
      const disk = await pool.take({ backend: file('/dev/${medium.trim()}'), record: true })
      console.log(disk.path)`)
    await until(
      async () => (await UblkDevice.open(server.id)).info().then(({ size }) => size > 0),
      'it has a size',
    )
    await sleep(300) // the first sector is being read
    const ended = server.interrupt('SIGKILL')
    await sh('dmsetup resume slow')
    await ended
    t.is((await run('recover', '--detach', server.path)).status, 0)
    await verify(server.path, JOBS, '8m')
    t.is((await run('delete', server.path)).status, 0)
    for (const { id } of await UblkDevice.list()) await (await UblkDevice.open(id)).delete() // what was to spare
  } finally {
    await sh('dmsetup remove --retry slow; losetup -D')
  }
})
