// processors: 2
// seconds: 90
/**
 * Disks that move while they are used. UBLK_TS_KILLS sets how often a server is killed during a move (default: 4), UBLK_TS_MOVE_SIZE
 * the MiB of the mounted disk (default: 96):
 * UBLK_TS_KILLS=100 UBLK_TS_MOVE_SIZE=1024 vm/run --cpus 2 --timeout 3000 npx ava --timeout 50m dist-test/kernel/move.test.js
 */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import test from 'ava'
import { file, memory, nbd, type StackableBackend, s3, UblkDevice, type UblkError } from 'ublk-ts'
import { Detached, leaveNoServerBehind } from '../support/detached.js'
import { NbdServer, verify } from '../support/nbd-server.js'
import { result, run, sh, shell } from '../support/program.js'
import { SLOWNESS, until } from '../support/server.js'
import { verify as verifyAll } from '../support/verify.js'

leaveNoServerBehind(test)

const KILLS = Number(process.env['UBLK_TS_KILLS'] ?? 4)
const SIZE = Number(process.env['UBLK_TS_MOVE_SIZE'] ?? 96)
const DIR = mkdtempSync('/dev/shm/move-')
const SOCKET = `${DIR}/socket`
const URI = `nbd+unix:///?socket=${SOCKET}`
const IMAGE = `${DIR}/image`
const SILENT = { status: 0, signal: null, stdout: '', stderr: '' }
const at = (name: string): string => `${DIR}/${name}`

test.beforeEach(() => sh('cd "$1"; rm -rf ./*; mkdir mnt', DIR))
test.afterEach.always(() => sh('if mountpoint -q "$1"; then umount "$1"; fi', at('mnt')))
test.after.always(() => rmSync(DIR, { recursive: true, force: true }))

/** A server that promises that all connections see the same data. */
const serverOf = async (mebibytes: number): Promise<NbdServer> => {
  await sh('rm -f "$1"; truncate -s "$2M" "$1"', IMAGE, `${mebibytes}`)
  return await NbdServer.nbdkit(`file ${IMAGE}`, SOCKET)
}

const sum = async (path: string): Promise<string> =>
  await sh(
    `dd if="$1" bs=1M ${path.startsWith('/dev/ublkb') ? 'iflag=direct' : ''} status=none | sha256sum`,
    path,
  )

/** Writes a block again and again, and prints the longest time that one took, in milliseconds. */
const STALLS = `
import mmap, os, sys, time
path, stop = sys.argv[1:]
out, data = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT), mmap.mmap(-1, 4096)
longest = number = 0
while not os.path.exists(stop):
    number += 1
    data[:] = number.to_bytes(8, 'big') * 512
    began = time.monotonic()
    os.pwrite(out, data, number % 256 * 4096)
    if os.pread(out, 4096, number % 256 * 4096) != data[:]:
        sys.exit('a block is not what was written')
    longest = max(longest, time.monotonic() - began)
print(f'{longest * 1000:.0f} {number}')
`

/** fio verifies a file of the file system until there is a file \`stop\`. */
const LOAD = `cd "$2"; while [ ! -e stop ]; do
    fio --name=x --filename="$1" --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite --bsrange=4k-256k --size=16m \\
      --verify=crc32c --verify_fatal=1 --randrepeat=0 --verify_state_save=0 --fsync=64 --output-format=terse
  done >fio.out`

test.serial(
  'a mounted disk moves to a file, an NBD server, an object store and memory, under a checked load',
  async t => {
    t.timeout(900_000 * SLOWNESS)
    const size = Math.max(SIZE, 96)
    await using _server = await serverOf(size)
    const disk = await Detached.create(`--mem ${size}M --recovery reissue --write-cache on --queues 2`)
    const device = await UblkDevice.open(disk.id)
    const mount = at('mnt')
    await sh('mkfs.ext4 -q "$1"; mount "$1" "$2"', disk.path, mount)
    await sh('dd if=/dev/urandom of="$1/data" bs=1M count="$2" conv=fsync status=none', mount, `${size / 2}`)
    const data = async (): Promise<string> =>
      await sh('sync "$1/data"; dd if="$1/data" bs=1M iflag=direct status=none | sha256sum', mount)
    const expected = await data()
    writeFileSync(at('stalls.py'), STALLS)
    const targets: [target: string, shown: string, ...words: string[]][] = [
      [at('disk.img'), at('disk.img')],
      [URI, SOCKET],
      [`file://${at('store')}`, at('store'), '--cache', at('cache'), '--cache-max', '64M'],
      ['memory', '/dev/shm/ublk-ts-'],
    ]
    for (const [target, shown, ...words] of targets) {
      rmSync(at('stop'), { force: true })
      const load = result(shell(LOAD, `${mount}/load`, DIR))
      const stalls = result(shell('exec python3 "$1/stalls.py" "$2/block" "$1/stop"', DIR, mount))
      await sleep(500)
      const moved = await run('move', disk.path, target, ...words, '--json')
      t.is(moved.status, 0, moved.stderr)
      const { seconds, bytes } = JSON.parse(moved.stdout)
      await sleep(500)
      writeFileSync(at('stop'), '')
      const [loaded, stalled] = await Promise.all([load, stalls])
      t.is(loaded.status, 0, loaded.stderr)
      t.is(stalled.status, 0, stalled.stderr)
      const [longest] = stalled.stdout.split(' ')
      t.log(`to ${shown}: ${bytes >> 20} MiB in ${seconds} s; the longest stall was ${longest} ms`)
      t.is(await data(), expected)
      t.true((await run('show', '-o', 'SOURCE', disk.path)).stdout.includes(shown), shown)
      t.is((await device.totals()).errors, 0)
    }
    // What other servers know: the disk goes through a kill and an upgrade.
    await disk.signal('SIGKILL')
    t.deepEqual(await run('recover', disk.path), { ...SILENT, stdout: `${disk.path}\n` })
    t.is((await run('upgrade', disk.path)).status, 0)
    t.is(await data(), expected)
    await sh('umount "$2"; fsck.ext4 -fn "$1" 2>&1', disk.path, mount)
    t.deepEqual(await run('delete', disk.path), SILENT)
  },
)

test.serial(
  'a disk that is not written to has the same bytes after each move, and the old ones stay',
  async t => {
    await using _server = await serverOf(16)
    await using disk = await UblkDevice.create({ backend: memory('16M'), writeCache: true })
    await sh('dd if=/dev/urandom of="$1" bs=1M count=7 seek=3 oflag=direct status=none', disk.path)
    const expected = await sum(disk.path)
    const targets: [StackableBackend, string | undefined][] = [
      [file(at('a.img')), at('a.img')],
      [nbd(URI), IMAGE],
      [memory('16M'), undefined],
      [file(at('b.img')), at('b.img')],
    ]
    for (const [target, path] of targets) {
      await disk.move(target)
      t.is(await disk.moving(), undefined)
      t.is(await sum(disk.path), expected)
      if (path !== undefined) t.is(await sum(path), expected)
    }
    // Zeroes take up no space.
    t.true(Number(await sh('du -k "$1" | cut -f1', at('a.img'))) < 8 << 10)
    await sh('dd if=/dev/zero of="$1" bs=1M count=16 oflag=direct status=none', disk.path)
    t.not(await sum(disk.path), expected)
    t.is(await sum(at('a.img')), expected)
    t.is(await sum(IMAGE), expected)
  },
)

for (const copy of ['copy', 'user', 'zero'] as const) {
  test.serial(
    `a disk with copy ${copy} moves to what has another copy mode, and is verified there`,
    async t => {
      await sh('truncate -s 16M "$1"', at('first'))
      const first = copy === 'user' ? memory('16M') : file(at('first'))
      await using disk = await UblkDevice.create({ backend: first, copy, writeCache: true })
      for (const target of [file(at('a.img')), memory('16M'), file(at('b.img'))]) {
        const load = verifyAll(disk.path, ['random-16'])
        await disk.move(target)
        await load
        await verifyAll(disk.path, ['sequential-1', 'random-128'])
      }
      t.is((await disk.info()).copy, copy)
      t.is(disk.totals().errors, 0)
    },
  )
}

test.serial('what does not fit is refused in a line, before anything is done', async t => {
  await using _server = await serverOf(8)
  await using disk = await UblkDevice.create({ backend: memory('16M'), writeCache: true })
  const refused = async (target: StackableBackend, kind: string, message: RegExp): Promise<void> => {
    const error = await t.throwsAsync(disk.move(target))
    t.is((error as { kind?: string }).kind, kind)
    t.regex(error?.message ?? '', message)
  }
  await refused(nbd(URI), 'invalid', /^the other disk has 8388608 bytes, this one 16777216$/)
  await refused(memory('8M'), 'invalid', /^the other disk has 8388608 bytes, this one 16777216$/)
  writeFileSync(at('full'), 'content')
  await refused(file(at('full')), 'exists', /has content already$/)
  t.is(await sh('cat "$1"', at('full')), 'content')
  await sh('mkdir "$1"', at('store'))
  const volume = (cache: string) => s3(`file://${at('store')}`, { cache: at(cache), size: '16M' })
  {
    await using written = await UblkDevice.create({ backend: volume('first') })
    await sh('dd if=/dev/urandom of="$1" bs=4k count=1 oflag=direct conv=fsync status=none', written.path)
  }
  await refused(volume('second'), 'exists', /^file:\S+ has content already$/)
  const error = await t.throwsAsync(disk.move(volume('second')))
  t.is((error as UblkError).hint, 'choose another volume, or have it overwritten (overwrite: true)')
  await disk.move(volume('third'), { overwrite: true })
  await disk.move(memory('16M'))
  await refused(file(at('none/a.img')), 'backend', /^cannot make .*none\/a.img/)
  await disk.move(file(at('a.img')))
  await t.throwsAsync(disk.move(file(at('a.img')), { overwrite: true }), { message: /is in use/ })
  const js = { size: 1 << 20, read: () => {}, write: () => {} }
  await using other = await UblkDevice.create({ backend: js })
  await t.throwsAsync(other.move(file(at('b.img'))), { message: /written in JavaScript cannot be moved/ })
  t.false(existsSync(at('b.img')))
  await verifyAll(disk.path, ['random-16'])
})

test.serial('a move that is aborted or whose target fails leaves the disk as it was', async t => {
  t.timeout(120_000 * SLOWNESS)
  await using server = await serverOf(16)
  await using disk = await UblkDevice.create({ backend: memory('16M'), writeCache: true })
  await sh('dd if=/dev/urandom of="$1" bs=1M count=16 oflag=direct status=none', disk.path)
  const expected = await sum(disk.path)
  const end = new AbortController()
  const moving = disk.move(file(at('a.img')), { rate: '2M', signal: end.signal })
  await until(async () => ((await disk.moving())?.done ?? 0) > 0, 'a part is copied')
  await t.throwsAsync(disk.move(memory('16M')), { message: /is being moved/ })
  await t.throwsAsync(disk.resize('32M'), { message: /is being moved/ })
  end.abort()
  await t.throwsAsync(moving, { any: true, name: 'AbortError' })
  t.false(existsSync(at('a.img')))
  t.is(await sum(disk.path), expected)
  const lost = disk.move(nbd(URI, { timeout: 1000 }), { rate: '2M' })
  await until(async () => ((await disk.moving())?.done ?? 0) > 0, 'a part is copied')
  const load = verifyAll(disk.path, ['random-16'])
  await server.kill()
  await t.throwsAsync(lost, { message: /^cannot (write to|flush) the (other disk|disk that it is moved to)/ })
  await load
  await verifyAll(disk.path, ['random-128'])
  await disk.move(file(at('a.img')))
  await verifyAll(disk.path, ['random-16'])
  t.is(disk.totals().errors, 0)
})

test.serial('a disk stays whole over kills of its server during moves', async t => {
  t.timeout(600_000 + KILLS * 15_000 * SLOWNESS)
  await using _server = await NbdServer.start(
    `bash -c 'truncate -s 24M ${IMAGE}; exec qemu-nbd -t -e 16 -k ${SOCKET} -f raw ${IMAGE}'`,
    SOCKET,
  )
  const disk = await Detached.create('--mem 24M --recovery reissue --write-cache on')
  let done = false
  const rounds = async (): Promise<string> => {
    let said = ''
    while (!done && said === '') said = await verify(disk.path, '--loops=2')
    return said
  }
  const load = rounds()
  const ended = { moved: 0, old: 0 }
  for (let kill = 0; kill < KILLS; kill++) {
    const isNbd = disk.record.options.backend.kind === 'nbd'
    const volume = [`file://${at(`${kill}.store`)}`, '--cache', at(`${kill}.cache`), '--cache-max', '64M']
    const targets = [[at(`${kill}.img`)], volume, ['memory'], ...(isNbd ? [] : [[URI]])]
    const target = targets[kill % targets.length] as string[]
    const before = JSON.stringify(disk.record.options.backend)
    const move = run('move', disk.path, ...target, ...(kill % 3 === 0 ? ['--rate', '64M'] : []))
    await sleep(150 + Math.random() * 900)
    await disk.signal('SIGKILL')
    const { status, stderr } = await move
    const moved = JSON.stringify(disk.record.options.backend) !== before
    ended[moved ? 'moved' : 'old'] += 1
    if (status === 0) t.true(moved, 'a move that has ended counts')
    else t.regex(stderr, /^ublk-ts: [^\n]+\n$/)
    t.deepEqual(await run('recover', disk.path), { ...SILENT, stdout: `${disk.path}\n` })
    // Those that it is not any more.
    const { path, cache } = disk.record.options.backend
    await sh(
      'cd "$1"; for f in *.img *.cache; do [ "$1/$f" = "$2" ] || rm -rf "$f" "$(basename "$f" .cache).store"; done',
      DIR,
      path ?? cache ?? '',
    )
  }
  done = true
  t.is(await load, '')
  t.log(`${KILLS} kills: ${ended.old} times it was the old disk, ${ended.moved} times the other one`)
  t.deepEqual(await run('delete', disk.path), SILENT)
})
