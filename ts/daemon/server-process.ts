import { type ChildProcess, spawn } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import { UblkError } from '../errors.js'
import { UblkDevice } from '../index.js'
import { markOf, type ProcessMark } from '../remote/identity.js'
import { readRecord, recordedIds } from '../remote/record-file.js'
import type { FromServer, ToServer } from './detached-server.js'
import { Failed, type Job } from './job.js'

/** How much longer than it is given the server may take before it is ended, and again before it is killed. */
const GRACE = 5000

/** From its start (22.14), so that SIGUSR1 never opens a debugger; later this program has a listener. */
const NODE_OPTIONS = ['--disable-sigusr1'].filter(option => process.allowedNodeEnvironmentFlags.has(option))

/** What a server has reported about its disk. */
export type Ready = Extract<FromServer, { type: 'ready' }>

/** A server in its own session, which gets a job. */
export class ServerProcess {
  /** How it ended, in words, once it has. */
  readonly ended: Promise<string>
  readonly #job: Job
  readonly #child: ChildProcess
  /** Distinguishes it from a later process with the same number. */
  readonly #mark: ProcessMark | undefined
  readonly #lastWords: () => string | undefined

  /**
   * Starts it.
   *
   * @param program - The module that Node runs, and its arguments; it calls `serveDetached()`.
   * @param stderr - What it logs to.
   * @param lastWords - Reads the last line of its log.
   */
  constructor(
    program: readonly string[],
    job: Job,
    stderr: number | 'inherit',
    options: { env?: NodeJS.ProcessEnv; lastWords?: () => string | undefined } = {},
  ) {
    this.#job = job
    this.#lastWords = options.lastWords ?? (() => undefined)
    this.#child = spawn(process.execPath, [...new Set([...process.execArgv, ...NODE_OPTIONS]), ...program], {
      detached: true,
      stdio: ['ignore', stderr === 'inherit' ? 'ignore' : stderr, stderr, 'ipc'],
      ...(options.env && { env: options.env }),
    })
    this.#mark = this.#child.pid === undefined ? undefined : markOf(this.#child.pid)
    this.ended = new Promise(resolve => {
      this.#child.once('error', error => resolve(error.message))
      this.#child.once('exit', (code, signal) => resolve(signal ?? `status ${code}`))
    })
  }

  /** Its process number, if it was started. */
  get pid(): number | undefined {
    return this.#child.pid
  }

  /** Its exit status, once it has exited. */
  get status(): number | null {
    return this.#child.exitCode
  }

  /**
   * Resolves when its disk is usable.
   *
   * @throws Failed with its own error message; UblkError if it dies or hangs, or is interrupted.
   */
  async ready(interrupted: AbortSignal): Promise<Ready> {
    const words = new Promise<FromServer>(resolve => this.#child.once('message', resolve))
    await this.#tell({ type: 'job', job: this.#job })
    const died = this.ended.then(() => this.#died())
    let abort = (): void => {}
    const broken = new Promise<UblkError>(resolve => {
      abort = () => resolve(new UblkError('cancelled', 'interrupted before the disk was usable'))
      interrupted.addEventListener('abort', abort, { once: true })
      if (interrupted.aborted) abort()
    })
    const time = this.#job.timeout + GRACE
    const late = sleep(time, undefined, { ref: false }).then(
      () => new UblkError('timeout', `the server did not come up in ${time / 1000} s`),
    )
    const said = await Promise.race([words, broken, late, died])
    interrupted.removeEventListener('abort', abort)
    if (said instanceof Error) throw said
    if (said.type === 'failed') throw new Failed(said.line, said.status)
    return said
  }

  /** Disconnects from it, once it knows that. */
  async letGo(): Promise<void> {
    const gone = new Promise<void>(resolve => this.#child.once('disconnect', resolve))
    await this.#tell({ type: 'go' })
    const late = sleep(GRACE, 'late', { ref: false })
    if (this.#child.connected && (await Promise.race([gone, late])) === 'late') {
      throw new UblkError('timeout', 'the server does not answer')
    }
    if (this.#hasEnded) throw await this.#died()
  }

  /** This process does not wait for it any more. */
  unref(): void {
    this.#child.unref()
  }

  /** Asks it to end. */
  signal(): void {
    this.#child.kill('SIGTERM')
  }

  /**
   * Ends it if it has not ended. If it was killed or failed, a device that it created is removed. A server that is taking
   * over a device may have succeeded meanwhile, and then continues; that device stays in any case.
   */
  async end(): Promise<void> {
    const makes = this.#job.action === 'create'
    if (this.#child.pid === undefined) return
    if (makes) this.signal()
    else if (this.#child.connected) this.#child.disconnect() // This tells it that no process waits for it.
    if (!(await this.#endsSoon())) {
      if (!makes && this.#serves()) return
      this.#child.kill('SIGKILL')
      await this.#endsSoon()
    }
    if (makes && this.#child.exitCode !== 0 && this.#mark) await removeDevicesOf(this.#mark)
  }

  async #endsSoon(): Promise<boolean> {
    return (await Promise.race([this.ended, sleep(GRACE, 'late', { ref: false })])) !== 'late'
  }

  #serves(): boolean {
    const found = this.#job.id === undefined ? undefined : readRecord(this.#job.id)
    return found?.state === 'served' && isDeepStrictEqual(found.record.server, this.#mark)
  }

  get #hasEnded(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null
  }

  async #tell(message: ToServer): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#child.send(message, error => (error ? this.#died().then(reject) : resolve()))
    })
  }

  async #died(): Promise<UblkError> {
    const how = await this.ended
    const words = this.#lastWords()
    return new UblkError('system', `the server ended (${how}) before the disk was usable`, {
      hint: words === undefined ? undefined : `its last words: ${words}`,
    })
  }
}

/** A server that was killed or failed while it made its disk may leave it behind. */
async function removeDevicesOf(server: ProcessMark): Promise<void> {
  for (const id of recordedIds()) {
    const found = readRecord(id)
    if (found.state !== 'dead' || !isDeepStrictEqual(found.record.server, server)) continue
    await (await UblkDevice.open(id)).delete({ force: true })
  }
}
