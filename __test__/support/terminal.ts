import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { MAIN, sh } from './program.js'
import { until } from './server.js'

/** `ublk-ts` in a pseudo terminal. */
export class Terminal {
  /** All that was written to it so far. */
  output = ''
  readonly #child: ChildProcess
  readonly #device: string
  readonly #ended: Promise<unknown>

  private constructor(child: ChildProcess, device: string, output: string) {
    this.#child = child
    this.#device = device
    this.output = output
    child.stdout?.on('data', text => {
      this.output += text
    })
    this.#ended = once(child, 'close')
  }

  /** Runs it in a terminal with these columns and rows. */
  static async run(words: string, columns: number, rows: number): Promise<Terminal> {
    const command = `tty; stty cols ${columns} rows ${rows}; exec ${process.execPath} ${MAIN} ${words}`
    const env = { ...process.env, LC_ALL: 'C.UTF-8' }
    const child = spawn('script', ['-qec', command, '/dev/null'], { stdio: ['pipe', 'pipe', 'inherit'], env })
    child.stdout?.setEncoding('utf8')
    let first = ''
    for await (const text of child.stdout?.iterator({ destroyOnReturn: false }) ?? []) {
      first += text
      if (first.includes('\n')) break
    }
    const at = first.indexOf('\n')
    return new Terminal(child, first.slice(0, at).trim(), first.slice(at + 1))
  }

  /** Presses a key. */
  press(key: string): void {
    this.#child.stdin?.write(key)
  }

  /** Gives it another size, as a window does. */
  async resize(columns: number, rows: number): Promise<void> {
    await sh('stty -F "$1" cols "$2" rows "$3"', this.#device, `${columns}`, `${rows}`)
  }

  /** Sends a signal to what runs in it. */
  async signal(name: NodeJS.Signals): Promise<void> {
    await sh('pkill -"$2" -t "$1" node', this.#device.replace('/dev/', ''), name)
  }

  /** The lines of the last whole screen, without what makes them shine. */
  screen(): string[] {
    const last = this.output.split('\x1b[H').at(-1) ?? ''
    // biome-ignore lint/suspicious/noControlCharactersInRegex: these it is about
    return last.replaceAll(/\x1b\[[\d;?]*[a-zA-Z]|\r/g, '').split('\n')
  }

  /** Waits until the output, from some place on, is like this; gives the place behind that. */
  async shows(pattern: RegExp, from = 0): Promise<number> {
    const found = (): RegExpExecArray | null => pattern.exec(this.output.slice(from))
    await until(() => found() !== null, `${pattern} in ${JSON.stringify(this.output.slice(from))}`)
    const match = found()
    return from + (match?.index ?? 0) + (match?.[0].length ?? 0)
  }

  /** Waits until it has ended; gives the exit status. */
  async end(): Promise<number | null> {
    await this.#ended
    return this.#child.exitCode
  }
}
