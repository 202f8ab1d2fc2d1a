import { type ChildProcess, spawn } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import { FLAGS, MAIN, type Result, result, spawnAs } from './program.js'

/** A process that runs until it is told to end, most often one that serves a disk. */
export class Server {
  /** What it said on stdout: the path, or one line of JSON. */
  readonly line: string
  /** How it ended, once it has. */
  readonly ended: Promise<Result>
  /** What it has said so far. */
  stdout = ''
  stderr = ''
  readonly #child: ChildProcess

  private constructor(
    child: ChildProcess,
    ended: Promise<Result>,
    line: string,
    said: Pick<Result, 'stdout' | 'stderr'>,
  ) {
    this.#child = child
    this.ended = ended
    this.line = line
    this.stdout = said.stdout
    this.stderr = said.stderr
    child.stdout?.on('data', text => {
      this.stdout += text
    })
    child.stderr?.on('data', text => {
      this.stderr += text
    })
  }

  /** Runs `ublk-ts create` with these words and waits until the disk is usable. */
  static async start(words: string): Promise<Server> {
    return await Server.#spawn(`ublk-ts create ${words}`, [MAIN, 'create', ...words.split(' ')])
  }

  /** The same as a user other than root. */
  static async startAs(user: string, words: string): Promise<Server> {
    const child = spawnAs(user, process.execPath, ...FLAGS, MAIN, 'create', ...words.split(' '))
    return await Server.#serving(`ublk-ts create ${words}`, child)
  }

  /** Runs another command of `ublk-ts` that goes on, and waits until it says something. */
  static async command(...words: string[]): Promise<Server> {
    return await Server.#spawn(`ublk-ts ${words.join(' ')}`, [MAIN, ...words])
  }

  /** Runs a module with this text, which is to print the disk's path once it is usable. */
  static async program(text: string): Promise<Server> {
    // Node sees that it is a module. Told so, it has workers get their flags from us, and refuses those of V8.
    return await Server.#spawn(text, ['--eval', text])
  }

  static async #spawn(what: string, args: string[]): Promise<Server> {
    return await Server.#serving(
      what,
      spawn(process.execPath, [...FLAGS, ...args], { stdio: ['ignore', 'pipe', 'pipe'] }),
    )
  }

  static async #serving(what: string, child: ChildProcess): Promise<Server> {
    const ended = result(child)
    const said = { stdout: '', stderr: '' }
    const line = new Promise<string>(resolve => {
      child.stdout?.on('data', chunk => {
        said.stdout += chunk
        if (said.stdout.includes('\n')) resolve(said.stdout.slice(0, said.stdout.indexOf('\n')))
      })
      child.stderr?.on('data', chunk => {
        said.stderr += chunk
      })
    })
    const first = await Promise.race([line, ended])
    if (typeof first === 'string') return new Server(child, ended, first, said)
    throw new Error(`${what}: status ${first.status}: ${first.stderr}`)
  }

  /** Runs an action on a disk, then interrupts its server, which must end well. */
  static async with<T>(words: string, action: (disk: Server) => Promise<T>): Promise<T> {
    const server = await Server.start(words)
    let done: T
    try {
      done = await action(server)
    } catch (error) {
      server.signal('SIGINT')
      await sleep(500)
      server.signal('SIGINT')
      await server.ended
      throw error
    }
    const { status, stderr } = await server.interrupt()
    if (status !== 0 || stderr !== '') throw new Error(`ublk-ts create ${words}: status ${status}: ${stderr}`)
    return done
  }

  /** The disk, such as `/dev/ublkb0`. */
  get path(): string {
    return this.line
  }

  /** The number of the device. */
  get id(): number {
    return Number(/\d+$/.exec(this.line)?.[0])
  }

  /** The process. */
  get pid(): number {
    return this.#child.pid ?? 0
  }

  signal(name: NodeJS.Signals): void {
    this.#child.kill(name)
  }

  /** Signals it and waits until it has ended. */
  async interrupt(name: NodeJS.Signals = 'SIGINT'): Promise<Result> {
    this.signal(name)
    return await this.ended
  }

  /** Waits until it has said something like this on stderr. */
  async said(pattern: RegExp): Promise<void> {
    await until(() => pattern.test(this.stderr), `${pattern} in ${JSON.stringify(this.stderr)}`)
  }
}

/** By how much to multiply bounds of waits: QEMU without KVM is 10 to 60 times slower than this machine. */
export const SLOWNESS = process.env['UBLK_TS_VM'] === 'qemu' ? 5 : 1

/** Waits until something holds, at most so many milliseconds. */
export async function until(
  holds: () => boolean | Promise<boolean>,
  what: string,
  limit = 60_000 * SLOWNESS,
): Promise<void> {
  const end = performance.now() + limit
  while (!(await holds())) {
    if (performance.now() > end) throw new Error(`did not happen: ${what}`)
    await sleep(50)
  }
}
