import { type Batch, type BatchBackend, Op } from './backend.js'
import type { Finish, JsDisk, Report } from './disk.js'
import { errnoOf, inOneLine } from './errno.js'
import type { QueueMemory } from './memory.js'

/** A batch whose arrays are the queue's own, for as long as `process` runs. */
class SharedBatch implements Batch {
  count = 0
  readonly op: Uint8Array
  readonly offset: Float64Array
  readonly length: Float64Array
  readonly flags: Uint8Array
  readonly result: Int32Array
  readonly #memory: QueueMemory

  constructor(memory: QueueMemory) {
    this.#memory = memory
    this.op = memory.op
    this.offset = memory.offset
    this.length = memory.length
    this.flags = memory.flags
    this.result = memory.result
  }

  data(i: number): Uint8Array {
    return this.#memory.data(this.#memory.tag[i] as number, this.length[i] as number)
  }

  complete(i: number, result: number): void {
    this.result[i] = result
  }
}

const GOES_ON = 0
const COMPLETED = 1
const GIVEN_UP = 2

/** A batch with arrays of its own, which outlive the turn it came in. */
class OwnBatch implements Batch {
  readonly count: number
  readonly op: Uint8Array
  readonly offset: Float64Array
  readonly length: Float64Array
  readonly flags: Uint8Array
  readonly result: Int32Array
  readonly #memory: QueueMemory
  readonly #tag: Uint16Array
  readonly #generation: Uint32Array
  /** By request: it goes on, was completed, or was given up. */
  readonly #done: Uint8Array
  readonly #disk: Batches
  /** Buffers of their own for requests that are to have them. */
  readonly #own: (Uint8Array | undefined)[] = []
  /** Until `process` has returned, answers only go to `result`. */
  returned = false

  constructor(memory: QueueMemory, count: number, disk: Batches) {
    this.#memory = memory
    this.#disk = disk
    this.count = count
    this.op = memory.op.slice(0, count)
    this.offset = memory.offset.slice(0, count)
    this.length = memory.length.slice(0, count)
    this.flags = memory.flags.slice(0, count)
    this.result = memory.result.slice(0, count)
    this.#tag = memory.tag.slice(0, count)
    this.#generation = memory.generation.slice(0, count)
    this.#done = new Uint8Array(count)
  }

  data(i: number): Uint8Array {
    if (this.#done[i] !== GOES_ON)
      throw new RangeError(`request ${i} of the batch is finished: its data is gone`)
    const [tag, length] = [this.#tag[i] as number, this.length[i] as number]
    const shared = this.#memory.data(tag, length)
    if (!this.#disk.isApart(tag)) return shared
    this.#own[i] ??= this.op[i] === Op.write ? shared.slice() : new Uint8Array(length)
    return this.#own[i]
  }

  /** The request was answered for it. */
  abandon(i: number): void {
    this.#done[i] = GIVEN_UP
  }

  complete(i: number, result: number): void {
    if (!Number.isInteger(i) || i < 0 || i >= this.count)
      throw new RangeError(`the batch has no request ${i}`)
    if (this.#done[i] === GIVEN_UP) return
    if (this.#done[i] === COMPLETED) {
      this.#disk.report(`request ${i} of a batch was completed twice`)
      return
    }
    const [tag, own] = [this.#tag[i] as number, this.#own[i]]
    if (own && this.op[i] === Op.read) this.#memory.data(tag, own.length).set(own)
    this.#done[i] = COMPLETED
    this.result[i] = result
    if (this.returned) this.#disk.finish(tag, this.#generation[i] as number, result)
  }

  /** Which requests were completed before `process` returned. */
  done(i: number): boolean {
    return this.#done[i] !== GOES_ON
  }

  /** Completes what is not. */
  settle(error: unknown, failed: boolean): void {
    for (let i = 0; i < this.count; i++) {
      if (this.#done[i] === GOES_ON) this.complete(i, failed ? errnoOf(error) : (this.result[i] as number))
    }
  }
}

/** Serves whole batches with a backend that takes them. */
export class Batches implements JsDisk {
  readonly goesOn: Uint8Array
  finish: Finish = () => {}
  readonly report: Report
  readonly #backend: BatchBackend
  readonly #memory: QueueMemory
  readonly #shared: SharedBatch
  /** Whether `process` is known to return promises: then each batch gets arrays of its own. */
  #asynchronous: boolean
  /** By tag, whether its requests get a buffer of their own; see {@link Friendly}. */
  readonly #apart: Uint8Array
  /** By tag, the batch that its request came in, and its place there. */
  readonly #whose: ({ batch: OwnBatch; i: number } | undefined)[]

  constructor(
    backend: BatchBackend,
    memory: QueueMemory,
    report: Report,
    { asynchronous, apart = false }: { asynchronous: boolean; apart?: boolean },
  ) {
    this.#backend = backend
    this.#memory = memory
    this.report = report
    this.goesOn = new Uint8Array(memory.depth)
    this.#shared = new SharedBatch(memory)
    this.#asynchronous = asynchronous
    this.#apart = new Uint8Array(memory.depth).fill(apart ? 1 : 0)
    this.#whose = new Array(memory.depth).fill(undefined)
  }

  /** Whether the tag's requests get buffers of their own. */
  isApart(tag: number): boolean {
    return this.#apart[tag] !== 0
  }

  serve(count: number): number {
    if (this.#asynchronous) return this.#serveOwn(count)
    const batch = this.#shared
    batch.count = count
    try {
      const answer = this.#backend.process(batch)
      if (answer === undefined) return 0
      // It kept arrays that the next turn overwrites: fail these requests rather than answer wrongly.
      this.#asynchronous = true
      if (typeof answer?.then === 'function') answer.then(undefined, () => {})
      throw new TypeError('process returned a promise, but is not declared async')
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

  #serveOwn(count: number): number {
    const batch = new OwnBatch(this.#memory, count, this)
    let answer: unknown
    try {
      answer = this.#backend.process(batch)
      if (answer !== undefined && typeof (answer as PromiseLike<unknown>)?.then !== 'function') {
        throw new TypeError(`process returned ${typeof answer}, not nothing or a promise`)
      }
    } catch (error) {
      this.#failed(error)
      batch.settle(error, true)
      answer = undefined
    }
    if (answer === undefined) batch.settle(undefined, false)
    let going = 0
    for (let i = 0; i < count; i++) {
      this.#memory.result[i] = batch.result[i] as number
      const goesOn = !batch.done(i)
      this.goesOn[i] = goesOn ? 1 : 0
      if (!goesOn) continue
      going++
      this.#whose[this.#memory.tag[i] as number] = { batch, i }
    }
    batch.returned = true
    if (going > 0) void this.#goOn(answer as PromiseLike<unknown>, batch)
    return going
  }

  async #goOn(answer: PromiseLike<unknown>, batch: OwnBatch): Promise<void> {
    try {
      await answer
      batch.settle(undefined, false)
    } catch (error) {
      this.#failed(error)
      batch.settle(error, true)
    }
  }

  #failed(error: unknown): void {
    this.report(`a batch failed: ${inOneLine(error)}`)
  }
}
