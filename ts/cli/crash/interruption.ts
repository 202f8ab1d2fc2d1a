import { constants } from 'node:os'
import { INTERRUPTED } from '../../interrupted.js'

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

/** Keeps signals from ending this process before it has cleaned up. */
export class Interruption implements Disposable {
  readonly #controller = new AbortController()
  #status: number | undefined

  constructor() {
    for (const signal of SIGNALS) process.on(signal, this.#interrupt)
  }

  /** Aborted when the first one comes. */
  get signal(): AbortSignal {
    return this.#controller.signal
  }

  /** The exit status that tells which one came. */
  get status(): number | undefined {
    return this.#status
  }

  #interrupt = (signal: NodeJS.Signals): void => {
    this.#status ??= 128 + constants.signals[signal]
    this.#controller.abort(INTERRUPTED)
  };

  [Symbol.dispose](): void {
    for (const signal of SIGNALS) process.off(signal, this.#interrupt)
  }
}
