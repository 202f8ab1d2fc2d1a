import type { Operation } from '../operation.js'
import { errnoOf, inOneLine, nameOf, nativeThen, quieten, settled } from '../user-values.js'
import {
  OP_DISCARD as DISCARD,
  FLAG_FAIL_FAST,
  FLAG_FUA,
  FLAG_META,
  FLAG_SWAP,
  OP_FLUSH as FLUSH,
  OP_READ as READ,
  OP_WRITE as WRITE,
  OP_WRITE_ZEROES as WRITE_ZEROES,
} from '../wire.js'
import type { DiskBackend, DiskRequest } from './js-backend.js'
import type { Finish, JsDisk, Report } from './js-disk.js'
import type { QueueMemory } from './queue-memory.js'
import { OPERATIONS as NAMES } from './requests.js'

/** The request object of one tag, used again for each of its requests. The backend may do anything to it. */
class Reused implements DiskRequest {
  op: Operation
  offset: number
  length: number
  fua: boolean
  meta: boolean
  failFast: boolean
  swap: boolean

  constructor(op: Operation, offset = 0, length = 0, flags = 0) {
    this.op = op
    this.offset = offset
    this.length = length
    this.fua = (flags & FLAG_FUA) !== 0
    this.meta = (flags & FLAG_META) !== 0
    this.failFast = (flags & FLAG_FAIL_FAST) !== 0
    this.swap = (flags & FLAG_SWAP) !== 0
  }
}

/** Serves requests one by one with a backend that has a method per operation. */
export class MethodAdapter implements JsDisk {
  readonly goesOn: Uint8Array
  finish: Finish = () => {}
  /** A method that the disk does not have is never called; requests for one that was removed later fail. */
  readonly #backend: Required<DiskBackend>
  readonly #memory: QueueMemory
  readonly #report: Report
  /** The kernel sends no flushes: every write has to be durable when its request completes. */
  readonly #durable: boolean
  /**
   * By tag, whether its requests get their own buffer, copied to or from the queue's: then a method that continues after
   * its timeout cannot overwrite the data of another request.
   */
  readonly #apart: Uint8Array
  readonly #requests: (Reused | undefined)[]
  readonly #buffers: (Uint8Array | undefined)[]

  constructor(
    backend: DiskBackend,
    memory: QueueMemory,
    report: Report,
    { apart = false, durable = false }: { apart?: boolean; durable?: boolean } = {},
  ) {
    this.#backend = backend as Required<DiskBackend>
    this.#memory = memory
    this.#report = report
    this.#durable = durable
    this.#apart = new Uint8Array(memory.depth).fill(apart ? 1 : 0)
    this.goesOn = new Uint8Array(memory.depth)
    this.#requests = new Array(memory.depth).fill(undefined)
    this.#buffers = new Array(memory.depth).fill(undefined)
  }

  serve(count: number): number {
    let going = 0
    for (let i = 0; i < count; i++) {
      const goesOn = this.#serve(i)
      if (goesOn) going++
      this.goesOn[i] = goesOn ? 1 : 0
    }
    return going
  }

  /** Serves the request at position `i`. Whether it goes on; if not, its result is in memory. */
  #serve(i: number): boolean {
    const memory = this.#memory
    const op = memory.op[i] as number
    const tag = memory.tag[i] as number
    const offset = memory.offset[i] as number
    const length = memory.length[i] as number
    let answer: unknown
    try {
      const request = this.#request(tag, op, offset, length, memory.flags[i] as number)
      answer = this.#call(op, request, tag, length)
      let flushed = !this.#durable || (op !== WRITE && op !== WRITE_ZEROES)
      if (answer === undefined && !flushed) {
        answer = this.#flush()
        flushed = true
      }
      if (answer === undefined) {
        if (op === READ) this.#bring(tag, length)
        return false
      }
      const then = (answer as PromiseLike<unknown> | null)?.then
      if (then !== nativeThen) quieten(answer)
      if (typeof then !== 'function') {
        throw new TypeError(`${NAMES[op]} returned ${nameOf(answer)}, not nothing or a promise`)
      }
      const generation = memory.generation[i] as number
      void this.#goOn(answer as PromiseLike<unknown>, flushed, request, generation, op, tag, offset, length)
      return true
    } catch (error) {
      quieten(answer)
      memory.result[i] = this.#failed(op, offset, length, error)
      return false
    }
  }

  /** Called when the tag's request timed out: its method keeps its objects, and later requests get new ones. */
  abandon(tag: number): void {
    this.#apart[tag] = 1
    this.#requests[tag] = undefined
    this.#buffers[tag] = undefined
  }

  #request(tag: number, op: number, offset: number, length: number, flags: number): Reused {
    const name = NAMES[op] as Operation
    const request = this.#requests[tag]
    if (request !== undefined) {
      try {
        request.op = name
        request.offset = offset
        request.length = length
        request.fua = (flags & FLAG_FUA) !== 0
        request.meta = (flags & FLAG_META) !== 0
        request.failFast = (flags & FLAG_FAIL_FAST) !== 0
        request.swap = (flags & FLAG_SWAP) !== 0
        return request
      } catch {} // The backend has frozen it.
    }
    const fresh = new Reused(name, offset, length, flags)
    this.#requests[tag] = fresh
    return fresh
  }

  #call(op: number, request: DiskRequest, tag: number, length: number): unknown {
    const backend = this.#backend
    switch (op) {
      case READ:
        return backend.read(request, this.#buffer(tag, length))
      case WRITE: {
        const from = this.#buffer(tag, length)
        if (this.#apart[tag] !== 0) from.set(this.#memory.data(tag, length))
        return backend.write(request, from)
      }
      case FLUSH:
        return backend.flush(request)
      case DISCARD:
        return backend.discard(request)
      default:
        return backend.writeZeroes(request)
    }
  }

  /** Flushes after a write, for a disk that gets no flushes from the kernel. */
  #flush(): unknown {
    return this.#backend.flush(new Reused('flush'))
  }

  #buffer(tag: number, length: number): Uint8Array {
    if (this.#apart[tag] === 0) return this.#memory.data(tag, length)
    let own = this.#buffers[tag]
    if (own?.length !== length) {
      own = new Uint8Array(length)
      this.#buffers[tag] = own
    }
    return own
  }

  /** Takes what a read put into a buffer of its own. */
  #bring(tag: number, length: number): void {
    const own = this.#buffers[tag]
    if (own === undefined || this.#apart[tag] === 0) return
    if (own.length !== length) throw new TypeError('its buffer was transferred')
    this.#memory.data(tag, length).set(own)
  }

  /** Finishes a request whose method has returned a promise. `flushed`: it needs no flush after that. */
  async #goOn(
    answer: PromiseLike<unknown>,
    flushed: boolean,
    request: Reused,
    generation: number,
    op: number,
    tag: number,
    offset: number,
    length: number,
  ): Promise<void> {
    let result: number
    try {
      let value = await answer
      if (this.#requests[tag] !== request) return // abandoned
      if (value === undefined && !flushed) value = await settled(this.#flush())
      if (this.#requests[tag] !== request) return
      if (value !== undefined) throw new TypeError(`${NAMES[op]} promised ${nameOf(value)}, not nothing`)
      if (op === READ) this.#bring(tag, length)
      result = op <= WRITE ? length : 0
    } catch (error) {
      quieten(answer) // Awaiting it may have failed.
      if (this.#requests[tag] !== request) return
      result = this.#failed(op, offset, length, error)
    }
    this.finish(tag, generation, result)
  }

  #failed(op: number, offset: number, length: number, error: unknown): number {
    this.#report(`${NAMES[op]} of ${length} bytes at ${offset} failed: ${inOneLine(error)}`)
    return errnoOf(error)
  }
}
