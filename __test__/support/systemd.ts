import type { ChildProcess } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { MAIN, result, sh, shell } from './program.js'
import { until } from './server.js'

/** Whether a systemd of the tests' own can be started: on a machine in use it would meddle with the real one. */
export const inLab: boolean = ['uml', 'qemu'].includes(process.env['UBLK_TS_VM'] ?? '')

const UNSHARE = 'unshare --mount --pid --fork --kill-child --mount-proc --propagation shared'

/** A /run of its own keeps other tests from taking it for the machine's; what generators make of that is not wanted. */
const INIT = `
  mount -t tmpfs -o mode=755 run /run
  mount -t tmpfs none /lib/systemd/system-generators
  mkdir -p /run/systemd/system
  ln -s /dev/null /run/systemd/system/tmp.mount
  exec env --ignore-environment container=lab PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --unit=basic.target --show-status=no --log-target=console`

/** A real systemd, with its udevd, which sees processes of its own only, but the machine's files and devices. */
export class Systemd {
  readonly #process: ChildProcess
  #pid = ''

  private constructor(process: ChildProcess) {
    this.#process = process
  }

  /** Installs our files as the documents say, and boots. */
  static async boot(): Promise<Systemd> {
    await sh('ln -sfn "$1" /usr/local/bin/ublk-ts', MAIN)
    const systemd = new Systemd(shell(`exec ${UNSHARE} bash -euc '${INIT}'`))
    try {
      await until(() => systemd.#find(), 'systemd starts')
      const state = 'timeout 60 bash -c "until systemctl is-system-running; do sleep 0.2; done" 2>&1 || true'
      const states = await systemd.sh(state)
      if (!states.endsWith('running\n')) throw new Error(`systemd does not run: ${states}`)
      for (const line of installation()) await systemd.sh(line)
      return systemd
    } catch (error) {
      await systemd.halt()
      throw error
    }
  }

  /** Runs a script in it, and gives what it prints; fails if any command in it does. */
  async sh(script: string, ...args: string[]): Promise<string> {
    const enter = 'pid=$1; shift; nsenter --target $pid --mount --pid bash -euo pipefail -c "$@"'
    return await sh(enter, this.#pid, script, 'bash', ...args)
  }

  async #find(): Promise<boolean> {
    this.#pid = (await sh(`pgrep --parent ${this.#process.pid} --exact systemd || true`)).trim()
    return this.#pid !== ''
  }

  /** Ends it and all that it has started. */
  async halt(): Promise<void> {
    const ended = result(this.#process)
    this.#process.kill('SIGKILL') // unshare heeds no other; systemd goes with it.
    await ended
  }
}

/** The lines of the document, with the directory that holds the files here. */
function installation(): string[] {
  const root = new URL('../../', import.meta.url)
  const document = readFileSync(new URL('docs/operations.md', root), 'utf8')
  const lines = document.match(/^# cp -r [^`]*/m)?.[0].split('\n') ?? []
  return lines
    .filter(line => line.startsWith('# ') && !line.includes('modprobe')) // The driver is there.
    .map(line => line.slice(2).replace('$(npm root -g)/ublk-ts/', root.pathname))
}
