import { writeSync } from 'node:fs'

const ENTER = '\x1b[?1049h\x1b[?25l' // the alternate screen, without a cursor
const LEAVE = '\x1b[?25h\x1b[?1049l'
const HOME = '\x1b[H'
const ERASE_LINE = '\x1b[K'
const ERASE_REST = '\x1b[J'

/** What to do when the user does something. */
export interface Events {
  key(key: string): void
  resize(): void
}

/** The terminal's other screen, until this is disposed of or the process ends, however it does. */
export class Terminal implements Disposable {
  readonly #events: Events
  readonly #onData = (data: Buffer): void => this.#events.key(data.toString('utf8'))
  readonly #onResize = (): void => this.#events.resize()
  readonly #onContinue = (): void => {
    this.#enter() // It was stopped, and the shell has used the terminal.
    this.#events.resize()
  }
  readonly #restore = (): void => {
    try {
      if (process.stdin.isTTY) process.stdin.setRawMode(false)
      writeSync(1, LEAVE)
    } catch {} // The terminal is gone.
  }

  constructor(events: Events) {
    this.#events = events
    // The last can still say something, which is not to be on the other screen.
    process.on('exit', this.#restore).prependListener('uncaughtException', this.#restore)
    process.on('SIGCONT', this.#onContinue)
    process.stdout.on('resize', this.#onResize)
    process.stdin.on('data', this.#onData)
    this.#enter()
  }

  /** Shows lines, from the top. */
  draw(lines: readonly string[]): void {
    process.stdout.write(HOME + lines.map(line => line + ERASE_LINE).join('\n') + ERASE_REST)
  }

  get width(): number {
    return process.stdout.columns || 80
  }

  get height(): number {
    return process.stdout.rows || 24
  }

  #enter(): void {
    if (process.stdin.isTTY) process.stdin.setRawMode(true)
    process.stdout.write(ENTER)
  }

  [Symbol.dispose](): void {
    process.off('exit', this.#restore).off('uncaughtException', this.#restore)
    process.off('SIGCONT', this.#onContinue)
    process.stdout.off('resize', this.#onResize)
    process.stdin.off('data', this.#onData).pause()
    this.#restore()
  }
}
