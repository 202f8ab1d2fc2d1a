import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { constants } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import type { CrashState } from '../../crash-state.js'
import { invalid } from '../../errors.js'
import type { ServedDevice } from '../../served-device.js'

/** What a command says to a state. */
export interface Verdict {
  readonly accepted: boolean
  /** The exit status that tells how the command ended. */
  readonly status: number
  /** How the command ended, in words: `status 1`, `SIGSEGV`, `not ended after 60 s`. */
  readonly end: string
  /** The last that it printed. */
  readonly output: string
  /** How long it took, in seconds. */
  readonly seconds: number
}

/** How much of the output is kept, in characters. */
const MOST_OUTPUT = 16_384

/** How much of the marks surely fits into a variable of the environment, in characters. */
const MOST_MARKS = 40_000

/** How long a command has to end after SIGTERM, in milliseconds. */
const GRACE = 1000

/** How long other programs may keep the output open, in milliseconds. */
const LINGER = 500

/** A command that looks at the disk of a state: the disk is acceptable if its exit status is 0. */
export class Check {
  readonly #words: readonly string[]
  readonly #timeout: number
  readonly #ends: AbortSignal
  readonly #shown: boolean

  /**
   * @param words - The command; `{}` stands for the path of the disk.
   * @param options - `timeout`: how long it may take, in seconds; 0: forever. `ends`: kills it. `shown`: whether its output is not
   * collected, but that of this process, and its input, too.
   */
  constructor(
    words: readonly string[],
    { timeout, ends, shown = false }: { timeout: number; ends: AbortSignal; shown?: boolean },
  ) {
    this.#words = words
    this.#timeout = timeout
    this.#ends = ends
    this.#shown = shown
  }

  /**
   * Runs the command on a disk with the content of a state. The disk, what has mounted it, and all processes of the command are
   * gone afterwards.
   *
   * @throws UblkError of kind `invalid` if there is no such command; as {@link CrashState.disk}.
   * @throws the reason of `ends` if it was aborted.
   */
  async of(state: CrashState): Promise<Verdict> {
    this.#ends.throwIfAborted()
    const disk = await state.disk({ signal: this.#ends })
    try {
      return await this.#run(disk, state)
    } finally {
      const { unmountAll } = await import('../../mounting/unmount-all.js')
      await unmountAll(disk)
      await disk.delete({ force: true })
    }
  }

  async #run(disk: ServedDevice, state: CrashState): Promise<Verdict> {
    const [name = '', ...rest] = this.#words.map(word => word.replaceAll('{}', disk.path))
    const start = performance.now()
    const child = spawn(name, rest, {
      stdio: this.#shown ? 'inherit' : ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...variables(disk, state) },
      detached: !this.#shown, // A group of its own, so that all of it can be killed.
    })
    const output = collected(child)
    const late = new AbortController()
    const timer = this.#timeout > 0 ? setTimeout(() => late.abort(), this.#timeout * 1000) : undefined
    const ended = once(child, 'exit').catch((error: NodeJS.ErrnoException) => {
      throw invalid(
        `cannot run ${name}: ${error.code === 'ENOENT' ? 'there is no such command' : error.message}`,
      )
    })
    const kill = (): void => void this.#end(child, ended)
    const any = AbortSignal.any([late.signal, this.#ends])
    any.addEventListener('abort', kill, { once: true })
    try {
      const [status, signal] = (await ended) as [number | null, NodeJS.Signals | null]
      await this.#closed(child)
      this.#ends.throwIfAborted()
      return {
        accepted: status === 0 && !late.signal.aborted,
        status: status ?? 128 + (signal ? constants.signals[signal] : 0),
        end: late.signal.aborted ? `not ended after ${this.#timeout} s` : (signal ?? `status ${status}`),
        output: output(),
        seconds: (performance.now() - start) / 1000,
      }
    } finally {
      clearTimeout(timer)
      any.removeEventListener('abort', kill)
    }
  }

  /** First asks the command to clean up. */
  async #end(child: ChildProcess, ended: Promise<unknown>): Promise<void> {
    this.#signal(child, 'SIGTERM')
    await Promise.race([ended.catch(() => {}), sleep(GRACE, undefined, { ref: false })])
    this.#signal(child, 'SIGKILL')
  }

  /** What it has started is not to outlive it: it may use the disk. */
  async #closed(child: ChildProcess): Promise<void> {
    if (this.#shown) return
    this.#signal(child, 'SIGKILL')
    const { stdout, stderr } = child
    const closed = Promise.all(
      [stdout, stderr].map(async pipe => pipe?.closed || (pipe && once(pipe, 'close'))),
    )
    await Promise.race([closed.catch(() => {}), sleep(LINGER, undefined, { ref: false })])
    stdout?.destroy()
    stderr?.destroy()
  }

  #signal(child: ChildProcess, signal: NodeJS.Signals): void {
    if (child.pid === undefined) return
    try {
      if (this.#shown) child.kill(signal)
      else process.kill(-child.pid, signal)
    } catch {} // All of it has ended.
  }
}

function variables({ path }: ServedDevice, { id, marks }: CrashState): NodeJS.ProcessEnv {
  return {
    UBLK_TS_DISK: path,
    UBLK_TS_STATE: id,
    UBLK_TS_MARK: linesOf(marks.slice(-1)),
    UBLK_TS_MARKS: linesOf(marks),
  }
}

/** The last of them that fit. */
function linesOf(marks: readonly string[]): string {
  const lines = marks.map(mark => mark.replaceAll(/[\0\n]/g, ' ')).join('\n')
  if (lines.length <= MOST_MARKS) return lines
  const end = lines.slice(-MOST_MARKS)
  return end.slice(end.indexOf('\n') + 1)
}

/** What it prints, until then. */
function collected({ stdout, stderr }: ChildProcess): () => string {
  let text = ''
  for (const pipe of [stdout, stderr]) {
    pipe?.setEncoding('utf8').on('data', (chunk: string) => {
      text = `${text}${chunk}`.slice(-MOST_OUTPUT)
    })
  }
  return () => text
}
