import { checkOptions, checkSignal } from '../../check.js'
import { invalid, wrongNumber, wrongType } from '../../errors.js'
import { formatSize, parseSize, type Size } from '../../size.js'
import { nameOf } from '../../user-values.js'
import { blockDevice } from './block-device.js'
import { CheckProcess } from './check-process.js'
import type { Violation } from './history.js'
import type { Job, Seen } from './job.js'

/** How a disk is checked. */
export interface LinearizableOptions {
  /** How long, in seconds, up to 3600; the operations are then {@link LinearizableOptions.operations} at most. Default: no limit. */
  seconds?: number | undefined
  /** How many operations there are, from 1 to a million. Default: 20000, or with `seconds` a million. */
  operations?: number | undefined
  /**
   * Determines which operations each writer does: a whole number from 0 to 2 ** 31 - 1. What they meet, and in which order, is up to
   * the machine. Default: drawn, and named in the report and in the error.
   */
  seed?: number | undefined
  /** How many blocks of the logical block size they use, from 1 to 4096. Few blocks: many conflicts. Default: 24. */
  blocks?: number | undefined
  /**
   * Where the blocks begin: a multiple of the logical block size. Default: so that 64 KiB, where clusters and chunks of many
   * disks meet, is in the middle of them; 0 if the disk is too small for that.
   */
  offset?: Size | undefined
  /** How many threads read and write at the same time, from 1 to 64. Default: 8. */
  writers?: number | undefined
  /** Ends the check. */
  signal?: AbortSignal | undefined
}

/** What a check has done. */
export interface LinearizableReport {
  /** The seed of its operations. */
  readonly seed: number
  /** How many reads, writes, zeroes and discards were answered without an error. */
  readonly reads: number
  readonly writes: number
  readonly zeroes: number
  readonly discards: number
  /** How many operations failed. */
  readonly failed: number
  /** How many reads and writes met a write of the same block that was in flight. If they are few, little was checked. */
  readonly concurrent: number
}

/** A disk did what no disk may do. */
export class LinearizabilityError extends Error {
  /** What it did. */
  readonly violation: Violation
  /** What the check has done. */
  readonly report: LinearizableReport

  /** @internal */
  constructor(path: string, violation: Violation, report: LinearizableReport) {
    super(`${path} is not linearizable (seed ${report.seed})\n${violation.explanation}`)
    this.violation = violation
    this.report = report
  }

  static {
    // On the prototype, as for the built-in errors, so that it is not printed as a field.
    Object.defineProperty(LinearizabilityError.prototype, 'name', {
      value: 'LinearizabilityError',
      configurable: true,
      writable: true,
    })
  }
}

/**
 * Checks that a disk keeps what disks promise to several clients at once: each block is a register. Once a write was answered, or a
 * read has seen it, no later read sees what was there before; nothing is torn, lost, or in another place. Several threads read and
 * write the same few blocks with direct I/O, one block or several at a time, each write with data of its own; now and then blocks
 * are zeroed or discarded. The order in which it all could have happened is then looked for: see {@link checkHistory}. An
 * operation that fails, because a rule of `faults()` says so or the power of the disk is cut, may take effect or not.
 *
 * **What is in these blocks is overwritten.** The disk must not be mounted. The work is done by a process of its own.
 *
 * @param path - A disk or a partition, such as `disk.path`: of this package, or any other.
 * @throws LinearizabilityError if there is no order, with the first read that is wrong and the operations that show it.
 * @throws UblkError: `invalid`, `not-found`, `no-permission`; `busy` if the disk is mounted; `backend` if no read succeeds;
 * `timeout` if no request is answered for 30 seconds; `limit` if too many operations were concurrent for an answer.
 * @throws the signal's reason if it was aborted.
 *
 * @example
 * ```ts
 * await using disk = await UblkDevice.create({ backend: worker(new URL('./my-disk.js', import.meta.url)) })
 * const { concurrent } = await checkLinearizable(disk.path, { seconds: 2 })
 * console.log(`it is a disk, also where ${concurrent} operations met`)
 * ```
 */
export async function checkLinearizable(
  path: string,
  options: LinearizableOptions = {},
): Promise<LinearizableReport> {
  await using checker = new Checker()
  return await checker.check(path, options)
}

/** {@link checkLinearizable} again and again, by the same process. */
export class Checker implements AsyncDisposable {
  #process: CheckProcess | undefined

  async check(path: string, options: LinearizableOptions = {}): Promise<LinearizableReport> {
    const { job, signal } = check(path, options)
    signal?.throwIfAborted()
    this.#process ??= new CheckProcess()
    const seen = await this.#process.work(job, signal)
    return reportOf(job, seen)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#process?.end()
  }
}

/** @throws LinearizabilityError. */
function reportOf(job: Job, seen: Seen): LinearizableReport {
  const { read: reads, write: writes, zeroes, discard: discards } = seen.done
  const { failed, concurrent } = seen
  const report = { seed: job.seed, reads, writes, zeroes, discards, failed, concurrent }
  if (seen.violation) throw new LinearizabilityError(job.path, seen.violation, report)
  return report
}

function check(path: unknown, options: unknown): { job: Job; signal: AbortSignal | undefined } {
  checkOptions<LinearizableOptions>(options, 'checkLinearizable()', {
    seconds: true,
    operations: true,
    seed: true,
    blocks: true,
    offset: true,
    writers: true,
    signal: true,
  })
  const { seconds, signal } = options
  checkSignal(signal)
  if (typeof path !== 'string') throw wrongType(`the path of a disk must be text, not ${nameOf(path)}`)
  if (seconds !== undefined && !(typeof seconds === 'number' && seconds > 0 && seconds <= 3600)) {
    throw wrongNumber(`seconds must be a number above 0, up to 3600, not ${nameOf(seconds)}`, seconds)
  }
  const operations = whole(options.operations, 'operations', 1, 1e6) ?? (seconds === undefined ? 20_000 : 1e6)
  const seed = whole(options.seed, 'seed', 0, 2 ** 31 - 1) ?? Math.floor(Math.random() * 2 ** 31)
  const blocks = whole(options.blocks, 'blocks', 1, 4096) ?? 24
  const writers = whole(options.writers, 'writers', 1, 64) ?? 8
  const { size, blockSize, discards } = blockDevice(path)
  const offset = offsetOf(options.offset, blocks * blockSize, blockSize, size)
  const milliseconds = seconds === undefined ? Infinity : seconds * 1000
  const area = { path, offset, blockSize, blocks }
  return { job: { ...area, seed, writers, operations, milliseconds, discards }, signal }
}

function whole(value: unknown, name: string, low: number, high: number): number | undefined {
  if (value === undefined) return undefined
  if (typeof value === 'number' && Number.isInteger(value) && value >= low && value <= high) return value
  throw wrongNumber(`${name} must be a whole number from ${low} to ${high}, not ${nameOf(value)}`, value)
}

/** In the middle of the blocks clusters, chunks and pages meet. */
const MIDDLE = 65536

function offsetOf(wanted: Size | undefined, length: number, blockSize: number, size: number): number {
  const half = Math.floor(length / blockSize / 2) * blockSize
  const middle = half <= MIDDLE && MIDDLE - half + length <= size ? MIDDLE - half : 0
  const offset = wanted === undefined ? middle : parseSize(wanted, 'offset')
  if (offset % blockSize !== 0)
    throw invalid(`offset ${offset} is not a multiple of ${blockSize}, the block size`)
  if (offset + length > size) {
    throw invalid(
      `the disk has ${formatSize(size)}, and the blocks would end at ${formatSize(offset + length)}`,
    )
  }
  return offset
}
