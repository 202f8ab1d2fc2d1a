/** A server's environment: signals, limits, seccomp filters, names. */
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import test from 'ava'
import { UblkDevice } from 'ublk-ts'
import { Detached, leaveNoServerBehind } from '../support/detached.js'
import { MAIN, type Result, result, run, sh } from '../support/program.js'
import { Server, until } from '../support/server.js'

leaveNoServerBehind(test)

const SILENT = { status: 0, signal: null, stdout: '', stderr: '' }

/** The listening TCP sockets, where a debugger would be. */
const listening = (): string[] =>
  readFileSync('/proc/net/tcp', 'utf8')
    .split('\n')
    .filter(line => line.trim().split(/ +/)[3] === '0A')

test('SIGUSR1 opens no debugger, in no form of server', async t => {
  const before = listening()
  const foreground = await Server.start('--null 16M')
  const worker = await Server.start(
    '--worker data:text/javascript,export%20default()=>({size:1048576,read(_,into){into.fill(0)}})',
  )
  const disk = await Detached.create('--mem 16M --recovery reissue')
  const supervised = await Detached.create('--mem 16M --recovery reissue --auto-restart')
  const supervisor = Number(
    /^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${supervised.pid}/status`, 'utf8'))?.[1],
  )
  const pids = [foreground.pid, worker.pid, disk.pid, supervised.pid, supervisor]
  for (const pid of pids) process.kill(pid, 'SIGUSR1')
  await sh('sleep 0.5')
  t.deepEqual(listening(), before)
  for (const pid of pids) t.true(existsSync(`/proc/${pid}`))
  t.false([...disk.log, ...supervised.log].some(({ message }) => /ebugger|nspector/.test(message)))
  t.notRegex(foreground.stderr, /ebugger|nspector/)
  for (const { path } of [disk, supervised]) t.deepEqual(await run('delete', path), SILENT)
  for (const server of [foreground, worker]) await server.interrupt()
})

test('whatever the umask, what a server leaves is its own user’s alone', async t => {
  await sh('rm -rf /run/ublk-ts')
  for (const umask of ['000', '077']) {
    const made = await limited(`umask ${umask}; "$0" "$1" create --mem 16M --recovery reissue --detach`)
    t.like(made, { status: 0, stderr: '' })
    t.is(await sh('find /run/ublk-ts /dev/shm/ublk-ts-* -perm /077'), '', umask)
    t.deepEqual(await run('delete', made.stdout.trim()), SILENT)
  }
})

test('with too few descriptors a command fails in one line, or does what it is to do', async t => {
  for (const limit of [20, 24, 30, 40, 60]) {
    const words = `"$0" "$1" create --mem 16M --detach`
    const { status, stdout, stderr } = await limited(`ulimit -n ${limit}; ${words}`)
    if (status === 0) t.deepEqual(await run('delete', stdout.trim()), SILENT)
    else t.regex(stderr, /^ublk-ts: [^\n]+\n$/, `${limit}`)
  }
})

async function limited(script: string): Promise<Result> {
  return await result(
    spawn('bash', ['-c', script, process.execPath, MAIN], { stdio: ['ignore', 'pipe', 'pipe'] }),
  )
}

/** Perl that installs a seccomp filter under which io_uring's calls fail with `$ARGV[0]`, and becomes the rest of `@ARGV`. */
const FILTERED = `
  my ($errno, @command) = @ARGV;
  my $prctl = (qx(uname -m) =~ /aarch64/) ? 167 : 157;
  my $filter = join '', map { pack 'S C C L', @$_ }
    [0x20, 0, 0, 0], [0x35, 0, 2, 425], [0x25, 1, 0, 427], [0x06, 0, 0, 0x00050000 | $errno], [0x06, 0, 0, 0x7fff0000];
  syscall($prctl, 38, 1, 0, 0, 0) == 0 or die "no_new_privs: $!";
  syscall($prctl, 22, 2, pack('S x6 P', 5, $filter), 0, 0) == 0 or die "seccomp: $!";
  exec @command or die $!`

test('a seccomp filter that forbids io_uring, or hides it, is named, and so is the other cause', async t => {
  const [EPERM, ENOSYS] = [1, 38]
  writeFileSync('/tmp/filtered.pl', FILTERED)
  for (const [errno, other] of [
    [EPERM, /io_uring is switched off/],
    [ENOSYS, /built without io_uring/],
  ] as const) {
    const filtered = async (words: string): Promise<Result> =>
      await limited(`perl /tmp/filtered.pl ${errno} "$0" "$1" ${words}`)
    const refused = await filtered('create --mem 16M')
    t.is(refused.status, 1)
    t.regex(refused.stderr, /^ublk-ts: cannot set up io_uring: [^\n]+\n$/)
    t.regex(refused.stderr, /seccomp/)
    t.regex(refused.stderr, other)
    const doctor = await filtered('doctor')
    t.is(doctor.status, 1)
    const line = doctor.stdout.split('\n').find(text => / io_uring /.test(text)) ?? ''
    t.regex(line, /^FAIL .*seccomp/, doctor.stdout)
  }
  t.regex((await run('doctor')).stdout, /^ok +io_uring /m)
})

test("under Node's permission model, with everything allowed, a disk is made, recorded and deleted", async t => {
  const known = process.allowedNodeEnvironmentFlags
  const model = ['--permission', '--experimental-permission'].find(flag => known.has(flag)) ?? ''
  const flags = [
    model,
    '--allow-fs-read=*',
    '--allow-fs-write=*',
    '--allow-child-process',
    '--allow-worker',
    '--allow-addons',
  ]
  const allowed = async (words: string): Promise<Result> =>
    await limited(
      `"$0" --disable-warning=ExperimentalWarning --disable-warning=SecurityWarning ${flags.join(' ')} "$1" ${words}`,
    )
  const made = await allowed('create --mem 16M --recovery reissue --detach')
  t.like(made, { status: 0, stderr: '' })
  const disk = new Detached(made.stdout.trim())
  t.true(disk.pid > 0)
  await disk.signal('SIGKILL')
  t.like(await allowed(`recover ${disk.id}`), { status: 0, stderr: '' })
  t.like(await allowed(`delete ${disk.id}`), { status: 0, stderr: '' })
})

test('names of mount points and processes are told as they are to programs, and harmlessly to people', async t => {
  const point = '/tmp/a b\tc\\040d\n<0>evil\x1b[2J'
  const shown = '/tmp/a b\\tc\\040d\\n<0>evil\\x1b[2J'
  const server = await Server.start('--mem 16M')
  mkdirSync(point)
  await sh('mkfs.ext4 -q "$1"; mount "$1" "$2"', server.path, point)
  try {
    const device = await UblkDevice.open(server.id)
    t.deepEqual(await device.users(), [`mounted on ${point}`])
    const json = await run('show', server.path, '--json')
    t.deepEqual(JSON.parse(json.stdout).ublkdevices[0].users, [`mounted on ${point}`])
    t.is((await run('list', '-n', '-o', 'users')).stdout, `mounted on ${shown}\n`)
    const refused = await run('delete', server.path)
    t.is(refused.status, 1)
    t.is(refused.stderr.indexOf('\n'), refused.stderr.length - 1, 'one line')
    t.true(refused.stderr.includes(shown))
    server.signal('SIGTERM')
    await server.said(/still in use/)
  } finally {
    await sh('umount "$1"', point)
  }
  const { status, stderr } = await server.ended
  t.is(status, 0)
  for (const line of stderr.trim().split('\n')) t.regex(line, /^ublk-ts: /)
  t.true(stderr.includes(shown))
})

test('a process that holds a disk cannot forge a line with its name', async t => {
  const server = await Server.start('--mem 16M')
  const holder = Server.program(`
    import { openSync, writeFileSync } from 'node:fs'
    openSync('${server.path}', 'r')
    writeFileSync('/proc/self/comm', 'x\\n<0>evil\\x1b[2J')
    console.log('held')
    setTimeout(() => {}, 60_000)`)
  const held = await holder
  const refused = await run('delete', server.path)
  t.is(refused.stderr.indexOf('\n'), refused.stderr.length - 1, 'one line')
  t.true(refused.stderr.includes('x\\n<0>evil\\x1b[2J'))
  await held.interrupt('SIGKILL')
  t.like(await server.interrupt(), { status: 0 })
})

/** Whether this process's main thread is an I/O flusher: two bits of its flags (PF_MEMALLOC_NOIO, PF_LOCAL_THROTTLE). */
const flusher = (): boolean => {
  const flags = Number(readFileSync('/proc/thread-self/stat', 'utf8').split(') ')[1]?.split(' ')[6])
  return (flags & 0x180000) !== 0
}

test('a thread is an I/O flusher as long as it serves a disk', async t => {
  const disk = { size: 2 ** 20, read: (_: unknown, into: Uint8Array) => void into.fill(0) }
  t.false(flusher())
  const one = await UblkDevice.create({ backend: disk })
  const other = await UblkDevice.create({ backend: disk })
  t.true(flusher())
  await one.delete()
  t.true(flusher())
  await other.delete()
  await until(() => !flusher(), 'it is no longer one')
})
