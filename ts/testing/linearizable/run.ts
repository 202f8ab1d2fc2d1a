import { closeSync, constants, openSync, readSync, writeSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { UblkError } from '../../errors.js'
import { command } from '../../mounting/program.js'
import { inOneLine } from '../../user-values.js'
import { BlockContent } from './block-content.js'
import { concurrentIn } from './concurrent.js'
import { now, pages } from './direct-io.js'
import { checkHistory, type DiskOperation } from './history.js'
import { BEGIN, DONE, FIRST_WRITE, GO, type Job, type Seen, STOP, type WriterData } from './job.js'
import { LONGEST, Load } from './load.js'
import type { Writers } from './writers.js'

/** The pause after zeroes or a discard, in milliseconds. Each is done by a program, which takes much longer than a request. */
const PAUSE = 20

/** How often writing the blocks at the beginning is tried: a disk may have faults. */
const ATTEMPTS = 20

/** A check in its own process: works on the disk from several threads, and looks at what they saw. */
export class Run {
  readonly #job: Job
  readonly #writers: Writers
  #since = now()
  /** Distinguishes this run's data from what another one has left. */
  readonly #salt = Math.floor(Math.random() * 2 ** 31)
  readonly #shared = new Int32Array(new SharedArrayBuffer(8))
  readonly #history: DiskOperation[] = []
  #failed = 0
  #error: string | undefined

  constructor(job: Job, writers: Writers) {
    this.#job = job
    this.#writers = writers
  }

  /** How many operations were answered so far. */
  get done(): number {
    return Atomics.load(this.#shared, DONE)
  }

  /**
   * Does the work.
   *
   * @throws UblkError.
   */
  async work(): Promise<void> {
    const disk = this.#open()
    try {
      await this.#load(disk)
      this.#readAll(disk)
    } finally {
      closeSync(disk)
    }
  }

  /** Once all writers are there, the blocks are written, and then all writers work at the same time. */
  async #load(disk: number): Promise<void> {
    const ended = new AbortController()
    let zeroes: Promise<void> | undefined
    const data = Array.from({ length: this.#job.writers }, (_, writer) => this.#dataFor(writer))
    const written = await this.#writers.work(data, () => {
      this.#since = now()
      let word = STOP
      try {
        this.#fill(disk)
        word = GO
      } finally {
        Atomics.store(this.#shared, BEGIN, word)
        Atomics.notify(this.#shared, BEGIN)
      }
      zeroes = this.#zeroes(ended.signal)
    })
    for (const { history, failed, error } of written) {
      for (const operation of history) {
        const { start, end = Infinity } = operation
        this.#history.push({ ...operation, start: start - this.#since, end: end - this.#since })
      }
      this.#failed += failed
      this.#error ??= error
    }
    ended.abort()
    await zeroes
  }

  /**
   * Checks what was seen.
   *
   * @throws UblkError of kind `backend` if no read succeeded, `limit` if there is no answer.
   */
  check(): Seen {
    const history = this.#history
    if (!history.some(({ op }) => op === 'read')) {
      throw new UblkError('backend', `no read of ${this.#job.path} succeeded: ${this.#error}`)
    }
    const done = { read: 0, write: 0, zeroes: 0, discard: 0 }
    for (const { op, outcome = 'ok' } of history) if (outcome === 'ok') done[op]++
    return { done, failed: this.#failed, concurrent: concurrentIn(history), violation: checkHistory(history) }
  }

  /** As long as it is open here, nobody can mount the disk. */
  #open(): number {
    const { path } = this.#job
    try {
      return openSync(path, constants.O_RDWR | constants.O_DIRECT | constants.O_EXCL)
    } catch (error) {
      const { code = inOneLine(error) } = error as NodeJS.ErrnoException
      if (code === 'EBUSY') {
        const hint = 'unmount it, and close what has it open: what is on the disk is overwritten'
        throw new UblkError('busy', `${path} is in use`, { code, hint, cause: error })
      }
      const kind = code === 'EACCES' || code === 'EPERM' ? 'no-permission' : 'system'
      const why = code === 'EROFS' ? 'it is read-only' : code
      throw new UblkError(kind, `cannot write to ${path}: ${why}`, { code, cause: error })
    }
  }

  /** The parts of the blocks that are written or read at once, as bytes. */
  *#parts(): Generator<{ block: number; count: number; bytes: DataView; place: number }> {
    const { blocks, blockSize, offset } = this.#job
    const memory = pages(LONGEST * blockSize)
    for (let block = 0; block < blocks; block += LONGEST) {
      const count = Math.min(LONGEST, blocks - block)
      yield {
        block,
        count,
        bytes: new DataView(memory, 0, count * blockSize),
        place: offset + block * blockSize,
      }
    }
  }

  /** Writes each block, so that it is known what is there. */
  #fill(disk: number): void {
    const content = new BlockContent(this.#job.blockSize, this.#salt)
    for (const { block, count, bytes, place } of this.#parts()) {
      content.fill(bytes, block, FIRST_WRITE)
      const start = this.#now()
      for (let attempt = 1; ; attempt++) {
        try {
          writeSync(disk, bytes, 0, bytes.byteLength, place)
          break
        } catch (error) {
          if (attempt < ATTEMPTS) continue
          throw new UblkError('backend', `cannot write to ${this.#job.path}: ${inOneLine(error)}`, {
            cause: error,
          })
        }
      }
      const values = new Array<number>(count).fill(FIRST_WRITE)
      this.#history.push({ op: 'write', block, values, start, end: this.#now() })
    }
  }

  /** Reads each block at the end: what was written last may be lost. */
  #readAll(disk: number): void {
    const { blockSize } = this.#job
    const content = new BlockContent(blockSize, this.#salt)
    for (const { block, count, bytes, place } of this.#parts()) {
      const start = this.#now()
      try {
        readSync(disk, bytes, 0, bytes.byteLength, place)
      } catch (error) {
        this.#failed++
        this.#error ??= inOneLine(error)
        continue
      }
      const end = this.#now()
      const values = Array.from({ length: count }, (_, at) =>
        content.read(new DataView(bytes.buffer, at * blockSize, blockSize), block + at),
      )
      this.#history.push({ op: 'read', block, values, start, end })
    }
  }

  #dataFor(writer: number): WriterData {
    const { writers, operations, seed, path, offset, blockSize, blocks, milliseconds } = this.#job
    return {
      ...{ path, offset, blockSize, blocks, milliseconds, writers, writer },
      salt: this.#salt,
      seed: seed * 1009 + writer,
      operations: Math.ceil(operations / writers),
      shared: this.#shared,
    }
  }

  /** Zeroes, and discards if the disk has them, one after the other. Node cannot do either, so a program of util-linux does. */
  async #zeroes(signal: AbortSignal): Promise<void> {
    const { blocks, seed, discards, path, offset, blockSize } = this.#job
    const load = new Load(blocks, seed)
    const able = { zeroes: true, discard: discards }
    while (!signal.aborted && (able.zeroes || able.discard)) {
      const op = able.discard && (!able.zeroes || load.number() < 0.5) ? 'discard' : 'zeroes'
      const { block, count } = load.range()
      const range = ['-o', `${offset + block * blockSize}`, '-l', `${count * blockSize}`]
      const start = this.#now()
      const words = [...(op === 'zeroes' ? ['-z'] : []), '-f', ...range, path]
      const outcome = await command('blkdiscard', words).then(
        () => 'ok' as const,
        (error: UblkError) => (error.kind === 'unsupported' ? 'missing' : 'failed'),
      )
      if (outcome === 'missing') return // It is not installed.
      this.#history.push({ op, block, blocks: count, start, end: this.#now(), outcome })
      if (outcome === 'failed') {
        able[op] = false
        this.#failed++
      }
      await sleep(PAUSE, undefined, { signal }).catch(() => {})
    }
  }

  /** Milliseconds since the beginning. */
  #now(): number {
    return now() - this.#since
  }
}
