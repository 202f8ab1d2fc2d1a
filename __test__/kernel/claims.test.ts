import { existsSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { type Backend, file, lazy, memory, UblkDevice, type UblkError } from 'ublk-ts'
import { Detached, gone, leaveNoServerBehind } from '../support/detached.js'
import { nodes } from '../support/devices.js'
import { run, sh, shell } from '../support/program.js'
import { until } from '../support/server.js'

leaveNoServerBehind(test)

const SIZE = 16 * 2 ** 20
const SILENT = { status: 0, signal: null, stdout: '', stderr: '' }
const dir = mkdtempSync(join(tmpdir(), 'claims-'))

/** A new sparse file. */
async function image(name: string): Promise<string> {
  await sh('rm -f "$1"; truncate -s "$2" "$1"', join(dir, name), `${SIZE}`)
  return join(dir, name)
}

/** A loop device on a new file, until the test is over. */
async function loopDevice(t: ExecutionContext, name: string): Promise<string> {
  const device = (await sh('losetup --find --show "$1"', await image(name))).trimEnd()
  t.teardown(() => sh('losetup -d "$1" 2>/dev/null || true', device))
  return device
}

async function refused(t: ExecutionContext, made: Promise<unknown>, message: RegExp): Promise<void> {
  const before = nodes()
  const error = await t.throwsAsync<UblkError>(made)
  t.is(error?.kind, 'busy', error?.message)
  t.regex(error?.message ?? '', message)
  t.deepEqual(nodes(), before, 'and nothing of it is left')
}

const fetch = ({ length }: { length: number }): Uint8Array => new Uint8Array(length).fill(7)

const KINDS: Record<string, (t: ExecutionContext) => Promise<(exclusive?: boolean) => Backend>> = {
  'a file': async () => {
    const path = await image('file')
    return exclusive => file(path, { exclusive })
  },
  'a file in memory': async t => {
    const path = `/dev/shm/claims-${process.pid}`
    t.teardown(() => rmSync(path, { force: true }))
    return exclusive => memory(SIZE, { file: path, exclusive })
  },
  'a block device': async t => {
    const path = await loopDevice(t, 'below')
    return exclusive => file(path, { direct: true, exclusive })
  },
  'the cache of a lazy disk': async () => {
    const cache = await image('cache')
    // The same file without the map, which two disks never share.
    return exclusive =>
      existsSync(`${cache}.map`) ? file(cache, { exclusive }) : lazy({ size: SIZE, cache, fetch })
  },
}

for (const [kind, of] of Object.entries(KINDS)) {
  test.serial(`${kind} has one server at a time, unless another insists`, async t => {
    const make = await of(t)
    const disk = await UblkDevice.create({ backend: make(), recovery: 'reissue', observe: () => {} })
    await sh('echo first | dd of="$1" conv=fsync status=none', disk.path)
    const holder = new RegExp(`is in use: .*process ${process.pid} \\(.*\\), which serves ${disk.path}`)
    await refused(t, UblkDevice.create({ backend: make() }), holder)
    await refused(t, UblkDevice.create({ backend: make(), readOnly: true }), holder)
    const insisting = await UblkDevice.create({ backend: make(false), readOnly: true })
    t.is(await sh('head -c 5 "$1"', insisting.path), 'first')
    await insisting.delete()
    await disk.quiesce()
    const other = await UblkDevice.create({ backend: make() })
    await refused(t, disk.resume(), new RegExp(`is in use: .*which serves ${other.path}`))
    t.is((await disk.info()).state, 'quiesced')
    await other.delete()
    await disk.resume()
    await refused(t, UblkDevice.create({ backend: make() }), holder)
    await disk.stop()
    const next = await UblkDevice.create({ backend: make() })
    await refused(t, disk.start(), new RegExp(`is in use: .*which serves ${next.path}`))
    t.is((await disk.info()).state, 'stopped')
    await next.delete()
    await disk.start()
    t.is(await sh('head -c 5 "$1"', disk.path), 'first')
    await disk.delete()
  })
}

test.serial('a lazy disk that is deleted while a fetch is under way lets go of its cache', async t => {
  const cache = join(dir, 'fetching')
  const asked: (() => void)[] = []
  const late = (range: { length: number }): Promise<Uint8Array> =>
    new Promise(resolve => asked.push(() => resolve(fetch(range))))
  const disk = await UblkDevice.create({ backend: lazy({ size: SIZE, cache, fetch: late }) })
  const other = lazy({ size: SIZE, cache, fetch })
  await refused(t, UblkDevice.create({ backend: other }), /cache\.map is in use|\.map is in use: process/)
  await until(() => asked.length > 0, 'the kernel reads the partition table')
  await disk.delete({ force: true })
  await (await UblkDevice.create({ backend: other })).delete()
  for (const answer of asked) answer() // The answers have no effect any more.
})

test.serial('of many that want the same file at once one gets it', async t => {
  const path = await image('wanted')
  const made = await Promise.allSettled(
    Array.from({ length: 8 }, () => UblkDevice.create({ backend: file(path) })),
  )
  const disks = made.flatMap(each => (each.status === 'fulfilled' ? [each.value] : []))
  t.is(disks.length, 1)
  await disks[0]?.delete()
})

test.serial('disks that only read share what they are in, with each other alone', async t => {
  for (const path of [await image('read'), await loopDevice(t, 'read-below')]) {
    const disks = [
      await UblkDevice.create({ backend: file(path), readOnly: true }),
      await UblkDevice.create({ backend: file(path), readOnly: true }),
    ]
    await refused(t, UblkDevice.create({ backend: file(path) }), /is in use: process/)
    await disks[0]?.delete()
    await refused(t, UblkDevice.create({ backend: file(path) }), /is in use: process/)
    await disks[1]?.delete()
    await (await UblkDevice.create({ backend: file(path) })).delete()
  }
})

test.serial('what the kernel uses is not served, not even to be read', async t => {
  const device = await loopDevice(t, 'mounted')
  const mount = join(dir, 'mnt')
  await sh('mkfs.ext4 -q "$1"; mkdir "$2"; mount "$1" "$2"', device, mount)
  t.teardown(() => sh('umount "$1" 2>/dev/null || true', mount))
  for (const readOnly of [false, true]) {
    await refused(
      t,
      UblkDevice.create({ backend: file(device), readOnly }),
      new RegExp(`${device} is in use: .*mounted on ${mount}`),
    )
  }
  await sh('echo works >"$1/file"; umount "$1"', mount)
  const disk = await UblkDevice.create({ backend: file(device) })
  await t.throwsAsync(sh('mount "$1" "$2"', device, mount), { message: /busy|already mounted/ })
  // Without a claim, the kernel may use the device, too.
  const insisting = await UblkDevice.create({ backend: file(device, { exclusive: false }), readOnly: true })
  await insisting.delete()
  await disk.delete()
  await sh('mkswap "$1" >/dev/null; swapon "$1"', device)
  await refused(t, UblkDevice.create({ backend: file(device) }), /is in use: .*swap/)
  await sh('swapoff "$1"', device)
})

test.serial('a file that a loop device is attached to is refused by its name', async t => {
  const path = await image('attached')
  const attach = async (...words: string[]): Promise<string> =>
    (await sh(`losetup --find --show ${words.join(' ')} "$1"`, path)).trimEnd()
  let device = await attach()
  const named = (): RegExp => new RegExp(`attached is in use: .*${device} is attached to it`)
  await refused(t, UblkDevice.create({ backend: file(path) }), named())
  await refused(t, UblkDevice.create({ backend: file(path), readOnly: true }), named())
  await sh('losetup -d "$1"', device)
  device = await attach('--read-only')
  await refused(t, UblkDevice.create({ backend: file(path) }), named())
  await (await UblkDevice.create({ backend: file(path), readOnly: true })).delete()
  await sh('losetup -d "$1"', device)
})

test.serial('a program that locks the file is told by its name', async t => {
  const path = await image('locked')
  const lock = `import fcntl, sys, time
f = open(sys.argv[1], 'r+b')
fcntl.lockf(f, fcntl.LOCK_EX)
print('locked', flush=True)
time.sleep(60)`
  const other = shell('exec python3 -c "$1" "$2"', lock, path)
  await new Promise(resolve => other.stdout?.once('data', resolve))
  await refused(t, UblkDevice.create({ backend: file(path) }), new RegExp(`process ${other.pid} \\(python3`))
  other.kill()
})

test.serial('a read-only block device is not made into a disk that fails to write', async t => {
  const device = await loopDevice(t, 'setro')
  await sh('blockdev --setro "$1"', device)
  t.teardown(() => sh('blockdev --setrw "$1"', device))
  const { status, stderr } = await run('create', '--file', device)
  t.is(status, 1)
  t.regex(stderr, /^ublk-ts: [^\n]* is read-only; make the disk read-only \(--read-only\)\n$/)
  await (await UblkDevice.create({ backend: file(device), readOnly: true })).delete()
})

/** Runs a command that must fail with one line. */
async function fails(t: ExecutionContext, line: RegExp, ...words: string[]): Promise<void> {
  const { status, stdout, stderr } = await run(...words)
  t.is(status, 1, stdout)
  t.regex(stderr, /^ublk-ts: [^\n]*\n$/)
  t.regex(stderr, line)
}

test.serial("servers hand their claim on, and another file in place of the disk's is refused", async t => {
  const [path, away] = [await image('disk.img'), join(dir, 'away.img')]
  const disk = await Detached.create(`--file ${path} --recovery reissue`)
  const holds = async (): Promise<void> => {
    await fails(
      t,
      new RegExp(`${path} is in use: process ${disk.pid} .*, which serves ${disk.path}; .*--no-exclusive`),
      'create',
      '--file',
      path,
    )
  }
  const hello = async (): Promise<string> =>
    await sh('dd if="$1" bs=512 count=1 iflag=direct status=none | head -c 5', disk.path)
  const state = async (): Promise<string> => (await (await UblkDevice.open(disk.id)).info()).state
  await sh('echo hello | dd of="$1" conv=fsync status=none', disk.path)
  await holds()
  const insisting = await Detached.create(`--file ${path} --no-exclusive --read-only`)
  t.is(insisting.record.options.backend.exclusive, false)
  t.deepEqual(await run('delete', insisting.path), SILENT)

  const replace = async (): Promise<void> => {
    renameSync(path, away)
    await image('disk.img')
  }
  const restore = (): void => renameSync(away, path)
  const replaced =
    /the disk's file was replaced: .*disk\.img is inode \d+ of .*made from inode \d+ of .*--other-file/
  t.deepEqual(await run('upgrade', disk.path), SILENT)
  await holds()
  const { pid } = disk
  await replace()
  const waits = (): number =>
    disk.log.filter(({ message }) => /waits for another server/.test(message)).length
  const before = waits()
  await fails(t, replaced, 'upgrade', disk.path)
  t.is(disk.pid, pid, 'the old server continues')
  t.is(waits(), before, 'and was not even asked to let go')
  t.is(await hello(), 'hello')
  restore()

  await replace()
  await disk.signal('SIGKILL')
  await fails(t, replaced, 'recover', '--detach', disk.path)
  t.is(await state(), 'quiesced')
  const other = { backend: file(path) }
  await t.throwsAsync(UblkDevice.recover(disk.id, other), { message: /the disk's file was replaced/ })
  // The same file under another name is the same disk.
  const moved = await UblkDevice.recover(disk.id, { backend: file(away) })
  t.is(await hello(), 'hello')
  await moved.quiesce()
  await moved.release()
  rmSync(path)
  await sh('ln -s away.img "$1"', path)
  t.deepEqual(await run('recover', '--detach', disk.path), { ...SILENT, stdout: `${disk.path}\n` })
  t.is(await hello(), 'hello')
  await disk.signal('SIGKILL')
  await image('another.img')
  await sh('ln -sf another.img "$1"', path)
  await fails(t, replaced, 'recover', '--detach', disk.path)
  rmSync(path)
  await fails(t, /cannot open .*ENOENT/, 'recover', '--detach', disk.path)
  t.false(existsSync(path))

  // Another disk serves the file meanwhile.
  restore()
  const thief = await UblkDevice.create({ backend: file(path) })
  await fails(
    t,
    new RegExp(`is in use: process ${process.pid} .*${thief.path}`),
    'recover',
    '--detach',
    disk.path,
  )
  t.is(await state(), 'quiesced')
  await thief.delete()
  t.is((await run('recover', '--detach', disk.path)).status, 0)
  await holds()
  await disk.signal('SIGKILL')
  const again = await UblkDevice.create({ backend: file(path) })
  t.is((await run('recover', '--detach', '--no-exclusive', disk.path)).status, 0)
  t.is(await hello(), 'hello')
  t.is(disk.record.options.backend.exclusive, false, 'that is kept')
  await again.delete()
  await disk.signal('SIGKILL')
  await replace()
  t.is((await run('recover', '--detach', '--other-file', disk.path)).status, 0)
  t.not(await hello(), 'hello')
  t.deepEqual(await run('upgrade', disk.path), SILENT, "it is the disk's file from then on")
  t.deepEqual(await run('delete', disk.path), SILENT)
})

test.serial('another device under the same name is not the same disk', async t => {
  const device = await loopDevice(t, 'one')
  const disk = await Detached.create(`--file ${device} --recovery reissue`)
  const holds = async (): Promise<void> => {
    const holder = new RegExp(`is in use: .*process ${disk.pid} \\(.*\\), which serves ${disk.path}`)
    await refused(t, UblkDevice.create({ backend: file(device) }), holder)
  }
  t.deepEqual(await run('upgrade', disk.path), SILENT)
  await holds()
  await disk.signal('SIGKILL')
  t.is((await run('recover', '--detach', disk.path)).status, 0)
  await holds()
  await disk.signal('SIGKILL')
  await sh('losetup -d "$1"', device)
  await sh('losetup "$1" "$2"', device, await image('two'))
  await fails(t, /replaced: .*disk sequence \d+; .*disk sequence \d+/, 'recover', '--detach', disk.path)
  t.deepEqual(await run('delete', disk.path), SILENT)
})

test.serial('a disk in memory whose file was replaced or lost is not served on', async t => {
  const disk = await Detached.create('--mem 16M --recovery reissue')
  const path = disk.record.options.backend.file
  t.deepEqual(await run('upgrade', disk.path), SILENT)
  const holder = new RegExp(`is in use: process ${disk.pid} .*${disk.path}`)
  await refused(t, UblkDevice.create({ backend: memory(SIZE, { file: path }) }), holder)
  await disk.signal('SIGKILL')
  renameSync(path, `${path}.away`)
  await sh('truncate -s 16M "$1"', path)
  await fails(t, /the disk's file was replaced/, 'recover', '--detach', disk.path)
  rmSync(path)
  await fails(t, /which is gone/, 'recover', '--detach', disk.path)
  const options = { backend: memory(SIZE, { file: path }), otherFile: true }
  await t.throwsAsync(UblkDevice.recover(disk.id, options), { message: /ENOENT/ })
  t.false(existsSync(path), 'no empty one is made in its place')
  renameSync(`${path}.away`, path)
  t.is((await run('recover', '--detach', disk.path)).status, 0)
  t.deepEqual(await run('delete', disk.path), SILENT)
})

test.serial("a server that is restarted waits until the disk's file is back", async t => {
  const path = await image('restarted')
  const disk = await Detached.create(`--file ${path} --recovery reissue --auto-restart`)
  await sh('echo hello | dd of="$1" conv=fsync status=none', disk.path)
  renameSync(path, `${path}.away`)
  await image('restarted')
  const { pid } = disk
  process.kill(pid, 'SIGKILL')
  await gone(pid)
  const logged = (): boolean => disk.log.some(({ message }) => /the disk's file was replaced/.test(message))
  await until(logged, 'it is refused')
  renameSync(`${path}.away`, path)
  t.is(await sh('dd if="$1" bs=512 count=1 iflag=direct status=none | head -c 5', disk.path), 'hello')
  await until(() => disk.pid !== pid, 'it has a record')
  await refused(
    t,
    UblkDevice.create({ backend: file(path) }),
    new RegExp(`process ${disk.pid} .*${disk.path}`),
  )
  t.deepEqual(await run('delete', disk.path), SILENT)
})

test.serial('a read-only disk is served on as one', async t => {
  const path = await image('read-only')
  const disk = await Detached.create(`--file ${path} --read-only --recovery reissue`)
  const beside = await UblkDevice.create({ backend: file(path), readOnly: true })
  await disk.signal('SIGKILL')
  t.is((await run('recover', '--detach', disk.path)).status, 0)
  t.deepEqual(await run('upgrade', disk.path), SILENT)
  await beside.delete()
  t.deepEqual(await run('delete', disk.path), SILENT)
})

test.serial('a disk that grows has zeroes there, whatever its file has', async t => {
  const path = `/dev/shm/grows-${process.pid}`
  writeFileSync(path, new Uint8Array(SIZE).fill(0xaa), { mode: 0o600 })
  t.teardown(() => rmSync(path))
  await using disk = await UblkDevice.create({ backend: memory(SIZE / 2, { file: path }) })
  await disk.resize(SIZE)
  const bytes = readFileSync(path)
  t.true(bytes.subarray(0, SIZE / 2).every(byte => byte === 0xaa))
  t.true(bytes.subarray(SIZE / 2).every(byte => byte === 0))
})

test.serial("somebody else's file in memory is not taken for a disk's", async t => {
  const [path, link] = [`/dev/shm/planted-${process.pid}`, `/dev/shm/link-${process.pid}`]
  t.teardown(() => rmSync(path, { force: true }))
  t.teardown(() => rmSync(link, { force: true }))
  const create = async (file: string): Promise<string> => {
    const made = UblkDevice.create({ backend: memory(SIZE, { file }) })
    return (await t.throwsAsync<UblkError>(made))?.message ?? ''
  }
  await sh('truncate -s "$2" "$1"; chown nobody "$1"; sysctl -qw fs.protected_regular=0', path, `${SIZE}`)
  t.regex(await create(path), /is another user's \(uid \d+\)/)
  await sh('chown root "$1"; chmod 666 "$1"', path)
  t.regex(await create(path), /can be written to by other users \(mode 666\)/)
  await sh('chmod 644 "$1"; ln -s "$1" "$2"', path, link)
  t.regex(await create(link), /ELOOP/)
  await (await UblkDevice.create({ backend: memory(SIZE, { file: path }) })).delete()
})
