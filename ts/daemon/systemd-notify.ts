import * as native from '#binding'
import type { QueueStats } from '../info.js'
import type { Supervision } from '../remote/control-protocol.js'

/**
 * Notifies systemd of the state of its service, and that it is alive while it makes progress. Does nothing without systemd,
 * which passes its socket in the environment.
 */
export class SystemdNotifier {
  readonly #stats: () => Promise<readonly QueueStats[]>
  #watchdog: NodeJS.Timeout | undefined
  #before: readonly Progress[] = []
  #stuck = 0

  /** @param stats - Gives the counters of the device, wherever it is served. */
  constructor(stats: () => Promise<readonly QueueStats[]>) {
    this.#stats = stats
  }

  /** The disk is usable. */
  ready(status: string): void {
    tell('READY=1', `MAINPID=${process.pid}`, `STATUS=${status}`)
    const half = watchdogTime() / 2
    if (half > 0) this.#watchdog = setInterval(() => void this.#ping(), half).unref()
  }

  /** The service is about to end. */
  stopping(): void {
    clearInterval(this.#watchdog)
    tell('STOPPING=1')
  }

  /** Another process is the service now. */
  handOver(pid: number): void {
    clearInterval(this.#watchdog)
    tell(`MAINPID=${pid}`)
  }

  /** Sends no sign of life while a queue has requests and makes no progress, so that the watchdog acts. */
  async #ping(): Promise<void> {
    try {
      const now = (await this.#stats()).map(progressOf)
      const stuck = now.some(({ owes, done }, at) => owes && done === this.#before[at]?.done)
      this.#before = now
      this.#stuck = stuck ? this.#stuck + 1 : 0
      if (this.#stuck < 2) tell('WATCHDOG=1')
    } catch {} // It has no server.
  }
}

/** The socket on which systemd listens. */
export function supervision(): Supervision {
  return { socket: process.env['NOTIFY_SOCKET'], watchdog: process.env['WATCHDOG_USEC'] }
}

/** This process is the service from now on. */
export function inherit({ socket, watchdog }: Supervision): void {
  if (typeof socket !== 'string') return
  process.env['NOTIFY_SOCKET'] = socket
  delete process.env['WATCHDOG_PID']
  if (typeof watchdog === 'string') process.env['WATCHDOG_USEC'] = watchdog
}

interface Progress {
  readonly owes: boolean
  readonly done: number
}

function progressOf({ inFlight, turns, read, write, flush, discard, writeZeroes }: QueueStats): Progress {
  const done = read.ops + write.ops + flush.ops + discard.ops + writeZeroes.ops + turns
  return { owes: inFlight > 0, done }
}

/** How long the watchdog waits, in milliseconds; 0: it does not watch. */
function watchdogTime(): number {
  const { NOTIFY_SOCKET: socket, WATCHDOG_USEC: time, WATCHDOG_PID: pid } = process.env
  const mine = socket !== undefined && (pid === undefined || Number(pid) === process.pid)
  return mine && Number(time) > 0 ? Number(time) / 1000 : 0
}

function tell(...lines: string[]): void {
  if (process.env['NOTIFY_SOCKET']) native.notifySystemd(lines.join('\n'))
}
