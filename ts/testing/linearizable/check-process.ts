import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { UblkError } from '../../errors.js'
import type { FromProgram, Job, Seen } from './job.js'

/** If no operation is answered for this number of milliseconds, a check is given up. */
const STALLED = 30_000

/** How long the process may take to end, in milliseconds. */
const GRACE = 1000

/** A process that does the work of checks. */
export class CheckProcess {
  readonly #child: ChildProcess
  #said = ''

  constructor() {
    // Node's options are for the program of the caller, such as its loaders.
    const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('NODE_')))
    this.#child = fork(fileURLToPath(new URL('./program.js', import.meta.url)), [], {
      ...{ execArgv: [], env, serialization: 'advanced', detached: true },
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    })
    this.#child.stderr?.setEncoding('utf8').on('data', text => {
      this.#said = `${this.#said}${text}`.slice(-4096)
    })
  }

  /**
   * Does the work of a check. After a failure it does no further work.
   *
   * @throws UblkError.
   * @throws the signal's reason if it was aborted.
   */
  async work(job: Job, signal: AbortSignal | undefined): Promise<Seen> {
    const { path } = job
    let stalled: NodeJS.Timeout | undefined
    const ended = new AbortController()
    const child = this.#child
    try {
      return await new Promise<Seen>((resolve, reject) => {
        signal?.addEventListener('abort', () => reject(signal.reason), { once: true, signal: ended.signal })
        stalled = setTimeout(() => {
          const hint = 'does it hang, because of a rule of faults, or since the thread that serves it waits?'
          reject(new UblkError('timeout', `${path} has answered nothing for ${STALLED / 1000} s`, { hint }))
        }, STALLED)
        const failed = (error: Error): void => {
          reject(new UblkError('system', `the check cannot be started: ${error.message}`, { cause: error }))
        }
        const closed = (status: number | null, end: string | null): void => {
          const why = /^\w*Error.*/m.exec(this.#said)?.[0] ?? end ?? `status ${status}`
          reject(new UblkError('system', `the process of the check has ended: ${why}`))
        }
        const listen = (message: FromProgram): void => {
          if (message.type === 'progress') stalled?.refresh()
          else clearTimeout(stalled)
          if (message.type === 'seen') resolve(message.seen)
          if (message.type === 'failed') {
            reject(new UblkError(message.kind, message.message, { hint: message.hint }))
          }
        }
        child.once('error', failed).once('close', closed).on('message', listen)
        ended.signal.addEventListener('abort', () => {
          child.off('error', failed).off('close', closed).off('message', listen)
        })
        child.send(job, error => error && failed(error))
      })
    } finally {
      clearTimeout(stalled)
      ended.abort()
    }
  }

  /** Ends it, so that it has no disk open. If it waits for a disk, it ends when that answers. */
  async end(): Promise<void> {
    const child = this.#child.on('error', () => {}) // It is said already.
    if (child.exitCode === null && child.signalCode === null && child.pid !== undefined) {
      const ended = once(child, 'exit')
      child.kill('SIGKILL')
      await Promise.race([ended, sleep(GRACE, undefined, { ref: false })])
    }
    if (child.connected) child.disconnect()
    child.stderr?.destroy()
    child.unref()
  }
}
