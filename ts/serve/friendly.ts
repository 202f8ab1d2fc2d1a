import type { DiskBackend, DiskRequest, Operation } from './backend.js'
import type { Finish, JsDisk, Report } from './disk.js'
import { errnoOf, inOneLine } from './errno.js'
import type { QueueMemory } from './memory.js'

const NAMES: readonly Operation[] = ['read', 'write', 'flush', 'discard', 'writeZeroes']
const READ = 0
const WRITE = 1

/** The request object of one tag, used again for each of its requests. */
class Reused implements DiskRequest {
  op: Operation = 'read'
  offset = 0
  length = 0
  fua = false
}

/** Serves requests one by one with a backend that has a method per operation. */
export class Friendly implements JsDisk {
  readonly goesOn: Uint8Array
  finish: Finish = () => {}
  readonly #backend: DiskBackend
  readonly #memory: QueueMemory
  readonly #report: Report
  /**
   * By tag, whether its requests get a buffer of their own, copied to or from the queue's: then a method that
   * goes on after its request was given up writes to nobody else's data.
   */
  readonly #apart: Uint8Array
  readonly #requests: (Reused | undefined)[]
  readonly #buffers: (Uint8Array | undefined)[]

  constructor(
    backend: DiskBackend,
    memory: QueueMemory,
    report: Report,
    { apart = false }: { apart?: boolean } = {},
  ) {
    this.#backend = backend
    this.#memory = memory
    this.#report = report
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
    const length = memory.length[i] as number
    this.#requests[tag] ??= new Reused()
    const request = this.#requests[tag]
    request.op = NAMES[op] as Operation
    request.offset = memory.offset[i] as number
    request.length = length
    request.fua = ((memory.flags[i] as number) & 1) !== 0
    try {
      const answer = this.#call(op, request, tag, length)
      if (answer === undefined) {
        if (op === READ) this.#bring(tag, length)
        return false
      }
      if (typeof (answer as PromiseLike<unknown>)?.then !== 'function') {
        throw new TypeError(`${request.op} returned ${typeof answer}, not nothing or a promise`)
      }
      void this.#goOn(
        answer as PromiseLike<unknown>,
        request,
        memory.generation[i] as number,
        op,
        tag,
        length,
      )
      return true
    } catch (error) {
      memory.result[i] = this.#failed(request, error)
      return false
    }
  }

  /** The tag's request was given up: its method keeps what it was given, and later requests get new things. */
  abandon(tag: number): void {
    this.#apart[tag] = 1
    this.#requests[tag] = undefined
    this.#buffers[tag] = undefined
  }

  #call(op: number, request: DiskRequest, tag: number, length: number): unknown {
    const backend = this.#backend
    switch (op) {
      case READ:
        return backend.read(request, this.#buffer(tag, length))
      case WRITE: {
        const from = this.#buffer(tag, length)
        if (this.#apart[tag] !== 0) from.set(this.#memory.data(tag, length))
        return backend.write?.(request, from)
      }
      case 2:
        return backend.flush?.(request)
      case 3:
        return backend.discard?.(request)
      default:
        return backend.writeZeroes?.(request)
    }
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
    if (own && this.#apart[tag] !== 0) this.#memory.data(tag, length).set(own)
  }

  async #goOn(
    answer: PromiseLike<unknown>,
    request: Reused,
    generation: number,
    op: number,
    tag: number,
    length: number,
  ): Promise<void> {
    let result: number
    try {
      const value = await answer
      if (this.#requests[tag] !== request) return // abandoned
      if (value !== undefined) throw new TypeError(`${request.op} promised ${typeof value}, not nothing`)
      if (op === READ) this.#bring(tag, length)
      result = op <= WRITE ? length : 0
    } catch (error) {
      if (this.#requests[tag] !== request) return
      result = this.#failed(request, error)
    }
    this.finish(tag, generation, result)
  }

  #failed(request: DiskRequest, error: unknown): number {
    this.#report(`${request.op} of ${request.length} bytes at ${request.offset} failed: ${inOneLine(error)}`)
    return errnoOf(error)
  }
}
