import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { Detached, gone, leaveNoServerBehind } from '../support/detached.js'
import { run, sh } from '../support/program.js'
import { Server, until } from '../support/server.js'

leaveNoServerBehind(test)

/** What listens to services as systemd does: Node has no datagram sockets of the Unix kind, and Perl is everywhere. */
const LISTEN = `
  use IO::Socket::UNIX; use Socket; $| = 1;
  my $socket = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Local => $ARGV[0]) or die; print "listening\\n";
  while (defined $socket->recv(my $text, 65536)) { print "$text\\n" }`

class Systemd implements Disposable {
  readonly path = join(mkdtempSync(join(tmpdir(), 'notify-')), 'socket')
  readonly #child: ChildProcess
  #heard = ''

  constructor() {
    this.#child = spawn('perl', ['-e', LISTEN, this.path], { stdio: ['ignore', 'pipe', 'inherit'] })
    this.#child.stdout?.setEncoding('utf8').on('data', text => {
      this.#heard += text
    })
  }

  /** Waits until it was told these lines, as often as that. */
  async hears(line: string, times = 1): Promise<void> {
    await until(() => this.count(line) >= times, `${line} in ${JSON.stringify(this.#heard)}`)
  }

  count(line: string): number {
    return this.#heard.split('\n').filter(heard => heard === line).length
  }

  [Symbol.dispose](): void {
    this.#child.kill()
  }
}

/** Starts a service with a watchdog of this many milliseconds, and waits until it says that it is ready. */
async function start(systemd: Systemd, words: string, watchdog: number): Promise<Server> {
  await systemd.hears('listening')
  Object.assign(process.env, { NOTIFY_SOCKET: systemd.path, WATCHDOG_USEC: `${watchdog * 1000}` })
  try {
    return await Server.start(words)
  } finally {
    delete process.env['NOTIFY_SOCKET']
    delete process.env['WATCHDOG_USEC']
  }
}

test('systemd is told when the disk is usable, that it is served, and when it goes', async t => {
  using systemd = new Systemd()
  const server = await start(systemd, '--mem 16M', 400)
  await systemd.hears('READY=1')
  await systemd.hears(`MAINPID=${server.pid}`)
  await systemd.hears(`STATUS=serving ${server.path}`)
  await systemd.hears('WATCHDOG=1', 3)
  t.is(systemd.count('STOPPING=1'), 0)
  t.is((await server.interrupt('SIGTERM')).status, 0)
  await systemd.hears('STOPPING=1')
})

test('the watchdog is not fed while a queue sits on requests', async t => {
  using systemd = new Systemd()
  const module = `data:text/javascript,${encodeURIComponent(
    'export default () => ({ size: 1048576, read: async ({ offset }) => { if (offset > 0) await new Promise(() => {}) } })',
  )}`
  const server = await start(systemd, `--worker ${module} --stuck-timeout 0`, 400)
  await systemd.hears('WATCHDOG=1', 3)
  const reading = sh('dd if="$1" bs=4096 skip=100 count=1 iflag=direct status=none || true', server.path)
  let fed = -1
  await until(async () => {
    const before = fed
    fed = systemd.count('WATCHDOG=1')
    await new Promise(resolve => setTimeout(resolve, 1500))
    return before === fed
  }, 'the watchdog is left alone')
  t.is((await run('delete', '--force', server.path)).status, 0)
  await reading
  await server.ended
})

test('systemd learns of the process that a service is upgraded to, which goes on to notify it', async t => {
  using systemd = new Systemd()
  const server = await start(systemd, '--mem 16M --recovery reissue', 400)
  t.is((await run('upgrade', server.path)).status, 0)
  t.is((await server.ended).status, 0)
  const disk = new Detached(server.path)
  const { pid } = disk
  await systemd.hears(`MAINPID=${pid}`)
  const fed = systemd.count('WATCHDOG=1')
  await systemd.hears('WATCHDOG=1', fed + 3)
  await disk.signal('SIGTERM')
  await systemd.hears('STOPPING=1')
  await gone(pid)
})

test('a supervisor is what systemd hears of, as long as a server does its work', async t => {
  using systemd = new Systemd()
  const server = await start(systemd, '--mem 16M --recovery reissue --auto-restart', 1000)
  await systemd.hears(`MAINPID=${server.pid}`)
  await systemd.hears('WATCHDOG=1', 3)
  const disk = new Detached(server.path)
  const { pid } = disk
  await disk.signal('SIGKILL')
  await until(() => disk.pid !== pid, 'another takes over')
  await systemd.hears('WATCHDOG=1', systemd.count('WATCHDOG=1') + 2)
  t.is(systemd.count(`MAINPID=${disk.pid}`), 0)
  t.is((await server.interrupt('SIGTERM')).status, 0)
  await systemd.hears('STOPPING=1')
})
