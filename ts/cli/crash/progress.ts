import { toStderr } from '../output.js'

/** How often the line changes at most, in milliseconds. */
const OFTEN = 100

/** A line on a terminal that says how far a command is; nothing where stderr is no terminal. */
export class Progress implements Disposable {
  readonly #start = performance.now()
  #since = 0
  #shown = false
  #tried = 0
  #failed = 0

  /** What else is done now. */
  #what = ''
  #most: number | undefined

  /** @param most - How many states are tried at most, until {@link begin}. */
  constructor(most: number) {
    this.#most = most
  }

  /** One more state was tried. */
  add(accepted: boolean): void {
    this.#tried++
    if (!accepted) this.#failed++
    this.#draw()
  }

  /** Something else is done from now on. */
  begin(what: string): void {
    this.#what = `${what}: `
    this.#most = undefined
    this.#draw(true)
  }

  #draw(now = false): void {
    if (!process.stderr.isTTY || (!now && performance.now() - this.#since < OFTEN)) return
    this.#since = performance.now()
    const rate = this.#tried / Math.max((this.#since - this.#start) / 1000, 0.001)
    const failed = this.#failed > 0 ? `, ${this.#failed} failed` : ''
    const most = this.#most === undefined ? '' : ` of at most ${this.#most}`
    const line = `${this.#what}${this.#tried}${most} states${failed}, ${rate.toFixed(rate < 10 ? 1 : 0)}/s`
    toStderr(`\r${line.slice(0, (process.stderr.columns || 80) - 1)}\x1b[K`)
    this.#shown = true
  }

  /** Removes the line. */
  [Symbol.dispose](): void {
    if (this.#shown) toStderr('\r\x1b[K')
    this.#shown = false
  }
}
