import { diskActivity } from '#binding'
import { UblkError } from './errors.js'
import { inOneLine, onRejection } from './user-values.js'

/** After how many milliseconds the first report is made, and the next ones if something has changed. */
const [FIRST, AGAIN] = [3000, 5000]

/** Reports from time to time what the kernel waits for while it removes a disk, until disposed. */
export class RemovalProgress implements Disposable {
  readonly #clock: NodeJS.Timeout
  readonly #tell: (line: string) => void
  #last = ''

  /** @param path - The disk. */
  constructor(id: number, path: string, tell: (line: string) => void) {
    this.#tell = tell
    const began = performance.now()
    const before = diskActivity(id)?.answered ?? 0
    let next = began + FIRST
    const look = (): void => {
      const now = performance.now()
      if (now < next) return
      next = now + AGAIN
      const activity = diskActivity(id)
      const seconds = Math.round((now - began) / 1000)
      const what = activity
        ? `${count(activity.waiting)} in flight, ${activity.answered - before} answered`
        : 'its last requests'
      this.say(`${path} is being removed: the kernel waits for ${what} after ${seconds} s`)
    }
    this.#clock = setInterval(look, 500)
  }

  /** Reports a line, unless it equals the last one. An exception in the listener becomes a process warning. */
  say(line: string): void {
    if (line === this.#last) return
    this.#last = line
    const failed = (error: unknown): void => {
      process.emitWarning(new UblkError('system', `onProgress failed: ${inOneLine(error)}`))
    }
    try {
      onRejection(Reflect.apply(this.#tell, undefined, [line]), failed)
    } catch (error) {
      failed(error)
    }
  }

  [Symbol.dispose](): void {
    clearInterval(this.#clock)
  }
}

function count(requests: number): string {
  return requests === 1 ? '1 request' : `${requests} requests`
}
