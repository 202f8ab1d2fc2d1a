import { type ChildProcess, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { UblkDevice } from 'ublk-ts'
import { Detached, gone } from './detached.js'
import { type Combination, throughCommands } from './matrix.js'
import { BACKENDS } from './matrix-backends.js'
import { FLAGS, type Result, result, run } from './program.js'
import { Server, until } from './server.js'

/** A disk of a combination, and the operations on it. A refusal is thrown as an error with the reason. */
export interface Subject {
  readonly id: number
  readonly path: string
  /** Hands it over to another server, or to the same one again, while the disk is used. */
  handOver(): Promise<void>
  resize(size: number): Promise<void>
  /** Kills its server. */
  kill(): Promise<void>
  /** Recovers it with another server. */
  recover(): Promise<void>
  /** Deletes it by force, and waits until its server has ended. */
  delete(): Promise<void>
}

/**
 * Makes one.
 *
 * @param program - The program that serves it, for forms in a program; otherwise one is started.
 */
export async function makeSubject(
  combination: Combination,
  dir: string,
  program?: Program,
): Promise<Subject> {
  if (throughCommands(combination)) return await Commanded.make(combination, dir)
  if (program) return await Programmed.make(combination, dir, program)
  const own = new Program()
  try {
    return await Programmed.make(combination, dir, own)
  } catch (error) {
    await own.kill()
    throw error
  }
}

/** A process that runs given operations on a disk. */
export class Program {
  readonly #child: ChildProcess
  readonly #answers: AsyncIterator<string>
  readonly ended: Promise<Result>

  constructor() {
    const program = `
      import { createInterface } from 'node:readline'
      import { file, lazy, memory, nbd, nullDisk, overlay, qcow2, stripe, tracked, UblkDevice, worker } from 'ublk-ts'
      let disk
      for await (const line of createInterface({ input: process.stdin })) {
        const answer = await eval('(async () => {' + line + '})()').then(
          value => ({ value: value ?? null }),
          error => ({ error: error.message + '; ' + (error.hint ?? '') }),
        )
        console.log(JSON.stringify(answer))
      }`
    this.#child = spawn(process.execPath, [...FLAGS, '--input-type=module', '--eval', program], {
      stdio: ['pipe', 'pipe', 'pipe'],
    })
    this.ended = result(this.#child)
    const lines = createInterface({ input: this.#child.stdout ?? process.stdin })
    this.#answers = lines[Symbol.asyncIterator]()
  }

  async tell(program: string): Promise<unknown> {
    this.#child.stdin?.write(`${program}\n`)
    const { value, done } = await this.#answers.next()
    if (done) throw new Error(`the program ended: ${(await this.ended).stderr}`)
    const answer = JSON.parse(value)
    if ('error' in answer) throw new Error(answer.error)
    return answer.value
  }

  async kill(): Promise<void> {
    this.#child.kill('SIGKILL')
    await this.ended
  }
}

/** A disk that a program serves. */
class Programmed implements Subject {
  private constructor(
    readonly id: number,
    private program: Program,
    private readonly options: string,
  ) {}

  get path(): string {
    return `/dev/ublkb${this.id}`
  }

  static async make(
    { transport, copy, backend, form, recovery }: Combination,
    dir: string,
    program: Program,
  ): Promise<Programmed> {
    const served =
      form === 'shared threads'
        ? "threads: 'shared'"
        : `threadsPerQueue: ${form === 'threads per queue' ? 2 : 1}`
    const options = `backend: ${BACKENDS[backend].program(dir)}, ${served}`
    const looks = JSON.stringify({
      queues: backend === 'plain object' ? 1 : 2,
      transport,
      copy,
      ...(recovery === 'none' ? {} : { recovery }),
    })
    const id = await program.tell(
      `disk = await UblkDevice.create({ ${options}, ...${looks} }); return disk.id`,
    )
    return new Programmed(Number(id), program, options)
  }

  async handOver(): Promise<void> {
    await this.program.tell('await disk.quiesce(); await disk.resume()')
  }

  async resize(size: number): Promise<void> {
    await this.program.tell(`await disk.resize(${size})`)
  }

  async kill(): Promise<void> {
    await this.program.kill()
  }

  async recover(): Promise<void> {
    this.program = new Program()
    await this.program.tell(`disk = await UblkDevice.recover(${this.id}, { ${this.options} })`)
  }

  async delete(): Promise<void> {
    await (await UblkDevice.open(this.id)).delete({ force: true })
    await this.program.kill()
  }
}

/** A disk that the command line creates and serves. */
class Commanded extends Detached implements Subject {
  private constructor(
    path: string,
    private readonly foreground: Server | undefined,
    private readonly supervised: boolean,
  ) {
    super(path)
  }

  static async make(
    { transport, copy, backend, form, recovery }: Combination,
    dir: string,
  ): Promise<Commanded> {
    const words = [
      ...(BACKENDS[backend].words?.(dir) ?? []),
      ...['--queues', '2', '--transport', transport, '--copy', copy],
      ...(recovery === 'none' ? [] : ['--recovery', recovery]),
      ...(form === 'supervised' ? ['--auto-restart'] : []),
    ].join(' ')
    if (form === 'foreground') {
      const server = await Server.start(words)
      return new Commanded(server.path, server, false)
    }
    return new Commanded((await Detached.create(words)).path, undefined, form === 'supervised')
  }

  async #run(...words: string[]): Promise<void> {
    const { status, stderr } = await run(...words)
    if (status !== 0) throw new Error(stderr)
  }

  async handOver(): Promise<void> {
    const { pid } = this
    await this.#run('upgrade', this.path)
    await gone(pid)
  }

  async resize(size: number): Promise<void> {
    await this.#run('resize', this.path, `${size}`)
  }

  async kill(): Promise<void> {
    await this.signal('SIGKILL')
  }

  async recover(): Promise<void> {
    // A supervisor recovers it by itself.
    if (!this.supervised) await this.#run('recover', '--detach', this.path)
    await until(async () => await this.#served(), 'it is served again')
  }

  async #served(): Promise<boolean> {
    const { state, serverAlive } = await (await UblkDevice.open(this.id)).info()
    return state === 'live' && serverAlive
  }

  async delete(): Promise<void> {
    await this.#run('delete', '--force', this.path)
    await this.foreground?.ended
  }
}
