import { EIO, errnoOf, inOneLine, nameOf, onRejection, quieten } from '../user-values.js'
import {
  FLAG_FUA as FUA,
  OP_READ as READ,
  OP_WRITE as WRITE,
  OP_WRITE_ZEROES as WRITE_ZEROES,
} from '../wire.js'
import type { Batch, BatchBackend } from './js-backend.js'
import type { Finish, JsDisk, Report } from './js-disk.js'
import type { QueueMemory } from './queue-memory.js'

/** The smallest result of a request: Linux's largest error number, negated. */
const LEAST_RESULT = -4095
const MOST_RESULT = 2 ** 31 - 1

/** Whether a value has the type and range of a result. The queue decides what it means. */
function isResult(result: unknown): result is number {
  return (
    typeof result === 'number' && Number.isInteger(result) && result >= LEAST_RESULT && result <= MOST_RESULT
  )
}

/** The result of request `i`. For an invalid one, EIO and a report. */
function resultOf(i: number, result: unknown, report: Report): number {
  if (isResult(result)) return result
  report(
    `request ${i} of a batch was completed with ${nameOf(result)}, ` +
      'not with bytes done or a negative error number',
  )
  return -EIO
}

/** @throws RangeError if a batch of that many requests has no request `i`. */
function checkIndex(i: number, count: number): void {
  if (Number.isInteger(i) && i >= 0 && i < count) return
  throw new RangeError(`the batch has no request ${nameOf(i)}`)
}

/** A batch whose arrays are the queue's own, for as long as `process` runs. */
class SharedBatch implements Batch {
  count = 0
  readonly op: Uint8Array
  readonly offset: Float64Array
  readonly length: Float64Array
  readonly flags: Uint8Array
  readonly result: Int32Array
  readonly #memory: QueueMemory
  readonly #report: Report

  constructor(memory: QueueMemory, report: Report) {
    this.#memory = memory
    this.#report = report
    this.op = memory.op
    this.offset = memory.offset
    this.length = memory.length
    this.flags = memory.flags
    this.result = memory.result
  }

  data(i: number): Uint8Array {
    const { tag, length } = this.#memory
    return this.#memory.data(tag[i] as number, length[i] as number)
  }

  complete(i: number, result: number): void {
    checkIndex(i, this.#memory.depth)
    this.#memory.result[i] = resultOf(i, result, this.#report)
  }
}

/** Whether a batch is unchanged: its backend may have replaced its arrays, or frozen it. */
function isIntact(batch: SharedBatch, memory: QueueMemory): boolean {
  try {
    return (
      !Object.isFrozen(batch) &&
      batch.op === memory.op &&
      batch.offset === memory.offset &&
      batch.length === memory.length &&
      batch.flags === memory.flags &&
      batch.result === memory.result
    )
  } catch {
    return false
  }
}

const GOES_ON = 0
const COMPLETED = 1
const GIVEN_UP = 2

/** A batch with arrays of its own, which outlive the turn it came in. Its backend sees it as an {@link OwnBatch}. */
class Kept {
  readonly count: number
  readonly result: Int32Array
  readonly #memory: QueueMemory
  readonly #op: Uint8Array
  readonly #length: Float64Array
  readonly #tag: Uint16Array
  readonly #generation: Uint32Array
  /** By request: it goes on, was completed, or was given up. */
  readonly #done: Uint8Array
  readonly #disk: BatchAdapter
  /** Buffers of their own for requests that are to have them. */
  readonly #own: (Uint8Array | undefined)[] = []
  /** Until `process` has returned, answers only go to `result`. */
  returned = false

  constructor(memory: QueueMemory, count: number, disk: BatchAdapter) {
    this.#memory = memory
    this.#disk = disk
    this.count = count
    this.result = memory.result.slice(0, count)
    this.#op = memory.op.slice(0, count)
    this.#length = memory.length.slice(0, count)
    this.#tag = memory.tag.slice(0, count)
    this.#generation = memory.generation.slice(0, count)
    this.#done = new Uint8Array(count)
  }

  data(i: number): Uint8Array {
    if (this.#done[i] !== GOES_ON)
      throw new RangeError(`request ${nameOf(i)} of the batch is finished: its data is gone`)
    const [tag, length] = [this.#tag[i] as number, this.#length[i] as number]
    const shared = this.#memory.data(tag, length)
    if (!this.#disk.isApart(tag)) return shared
    this.#own[i] ??= this.#op[i] === WRITE ? shared.slice() : new Uint8Array(length)
    return this.#own[i]
  }

  /** The request was answered for it. */
  abandon(i: number): void {
    this.#done[i] = GIVEN_UP
  }

  complete(i: number, result: unknown): void {
    checkIndex(i, this.count)
    if (this.#done[i] === GIVEN_UP) return
    if (this.#done[i] === COMPLETED) {
      this.#disk.report(`request ${i} of a batch was completed twice`)
      return
    }
    // After it is marked nothing may throw: it would never be answered.
    const checked = this.#bring(i, resultOf(i, result, this.#disk.report))
    this.#done[i] = COMPLETED
    this.result[i] = checked
    if (this.returned) this.#disk.finish(this.#tag[i] as number, this.#generation[i] as number, checked)
  }

  /** Copies what a read put into a buffer of its own. Returns the request's result. */
  #bring(i: number, result: number): number {
    const own = this.#own[i]
    if (own === undefined || this.#op[i] !== READ || result < 0) return result
    const data = this.#memory.data(this.#tag[i] as number, this.#length[i] as number)
    if (own.length !== data.length) {
      this.#disk.report(`the buffer of request ${i} of a batch was transferred`)
      return -EIO
    }
    data.set(own)
    return result
  }

  /** Whether it was completed before `process` returned. */
  done(i: number): boolean {
    return this.#done[i] !== GOES_ON
  }

  /** Completes the remaining requests with the results that `result` gives. */
  settle(): void {
    for (let i = 0; i < this.count; i++) {
      if (this.#done[i] === GOES_ON) this.complete(i, this.result[i])
    }
  }

  /** Completes the remaining requests with an error. */
  fail(error: unknown): void {
    const errno = errnoOf(error)
    for (let i = 0; i < this.count; i++) {
      if (this.#done[i] === GOES_ON) this.complete(i, errno)
    }
  }
}

/** The batch object that the backend gets, and may modify in any way. */
class OwnBatch implements Batch {
  readonly count: number
  readonly op: Uint8Array
  readonly offset: Float64Array
  readonly length: Float64Array
  readonly flags: Uint8Array
  readonly result: Int32Array
  readonly #kept: Kept

  constructor(memory: QueueMemory, kept: Kept) {
    const { count } = kept
    this.#kept = kept
    this.count = count
    this.op = memory.op.slice(0, count)
    this.offset = memory.offset.slice(0, count)
    this.length = memory.length.slice(0, count)
    this.flags = memory.flags.slice(0, count)
    this.result = kept.result
  }

  data(i: number): Uint8Array {
    return this.#kept.data(i)
  }

  complete(i: number, result: number): void {
    this.#kept.complete(i, result)
  }
}

/** Serves whole batches with a backend that takes them. */
export class BatchAdapter implements JsDisk {
  readonly goesOn: Uint8Array
  finish: Finish = () => {}
  readonly report: Report
  readonly #backend: BatchBackend
  readonly #memory: QueueMemory
  /** The kernel sends no flushes: every write has to be durable when its request completes. */
  readonly #durable: boolean
  #shared: SharedBatch
  /** Whether `process` is known to return promises: then each batch gets arrays of its own. */
  #asynchronous: boolean
  /** By tag, whether its requests get a buffer of their own; see {@link MethodAdapter}. */
  readonly #apart: Uint8Array
  /** By tag, the batch that its request came in, and its place there. */
  readonly #whose: ({ batch: Kept; i: number } | undefined)[]

  constructor(
    backend: BatchBackend,
    memory: QueueMemory,
    report: Report,
    {
      asynchronous,
      apart = false,
      durable = false,
    }: { asynchronous: boolean; apart?: boolean; durable?: boolean },
  ) {
    this.#backend = backend
    this.#memory = memory
    this.report = report
    this.goesOn = new Uint8Array(memory.depth)
    this.#shared = new SharedBatch(memory, report)
    this.#asynchronous = asynchronous
    this.#durable = durable
    this.#apart = new Uint8Array(memory.depth).fill(apart ? 1 : 0)
    this.#whose = new Array(memory.depth).fill(undefined)
  }

  /** Whether the tag's requests get buffers of their own. */
  isApart(tag: number): boolean {
    return this.#apart[tag] !== 0
  }

  serve(count: number): number {
    if (this.#durable) this.#force(count)
    if (this.#asynchronous) return this.#serveOwn(count)
    const batch = this.#share(count)
    try {
      const answer: unknown = this.#backend.process(batch)
      if (answer === undefined) return 0
      // It kept arrays that the next turn overwrites: fail these requests rather than answer wrongly.
      this.#asynchronous = true
      onRejection(answer, () => {})
      throw new TypeError(`process returned ${nameOf(answer)}, but is not declared async`)
    } catch (error) {
      this.#failed(error)
      this.#memory.result.fill(errnoOf(error), 0, count)
      return 0
    }
  }

  abandon(tag: number): void {
    this.#apart[tag] = 1
    const whose = this.#whose[tag]
    whose?.batch.abandon(whose.i)
  }

  /** The batch that is passed to `process`: the same object each time, unless the backend has changed it. */
  #share(count: number): SharedBatch {
    if (!isIntact(this.#shared, this.#memory)) this.#shared = new SharedBatch(this.#memory, this.report)
    this.#shared.count = count
    return this.#shared
  }

  /** Sets the FUA bit of all writes. */
  #force(count: number): void {
    const { op, flags } = this.#memory
    for (let i = 0; i < count; i++) {
      if (op[i] === WRITE || op[i] === WRITE_ZEROES) flags[i] = (flags[i] as number) | FUA
    }
  }

  #serveOwn(count: number): number {
    const memory = this.#memory
    const batch = new Kept(memory, count, this)
    let answer: unknown
    try {
      answer = this.#backend.process(new OwnBatch(memory, batch))
      quieten(answer)
      if (answer !== undefined && typeof (answer as PromiseLike<unknown> | null)?.then !== 'function') {
        throw new TypeError(`process returned ${nameOf(answer)}, not nothing or a promise`)
      }
    } catch (error) {
      this.#failed(error)
      batch.fail(error)
      answer = undefined
    }
    if (answer === undefined) batch.settle()
    let going = 0
    for (let i = 0; i < count; i++) {
      memory.result[i] = batch.result[i] as number
      const goesOn = !batch.done(i)
      this.goesOn[i] = goesOn ? 1 : 0
      if (!goesOn) continue
      going++
      this.#whose[memory.tag[i] as number] = { batch, i }
    }
    batch.returned = true
    if (going > 0) void this.#goOn(answer as PromiseLike<unknown>, batch)
    else onRejection(answer, error => this.#failed(error))
    return going
  }

  async #goOn(answer: PromiseLike<unknown>, batch: Kept): Promise<void> {
    try {
      await answer
      batch.settle()
    } catch (error) {
      this.#failed(error)
      batch.fail(error)
    }
  }

  #failed(error: unknown): void {
    this.report(`a batch failed: ${inOneLine(error)}`)
  }
}
