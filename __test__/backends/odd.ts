import { openSync, writeSync } from 'node:fs'
import {
  type Batch,
  type BatchBackend,
  type DiskBackend,
  type DiskRequest,
  defineBackend,
  type JsBackend,
  Op,
} from 'ublk-ts'
import { settled } from '../../dist/user-values.js'
import { Odd } from '../support/odd.js'

/** A disk that answers requests to its first half in random, mostly invalid ways, and serves the others correctly. */
export interface Options {
  form: Form
  seed: number
  /** Counts the requests that were answered randomly: memory, or in another process a file of one Int32. */
  told?: SharedArrayBuffer | string
}

export const FORMS = ['sync', 'async', 'batch', 'async batch'] as const
export type Form = (typeof FORMS)[number]

/** Its size, and where its correct half begins, in bytes. */
export const SIZE: number = 4 * 2 ** 20
export const GOOD: number = SIZE / 2

export default defineBackend((options: Options): JsBackend => oddDisk(options))

export function oddDisk({ form, seed, told = new SharedArrayBuffer(4) }: Options): JsBackend {
  const disk = new OddDisk(seed, counter(told))
  return form === 'sync' || form === 'async'
    ? disk.methods(form === 'async')
    : disk.batches(form === 'async batch')
}

function counter(told: SharedArrayBuffer | string): () => void {
  const count = new Int32Array(typeof told === 'string' ? new SharedArrayBuffer(4) : told)
  if (typeof told !== 'string') return () => void Atomics.add(count, 0, 1)
  const file = openSync(told, 'r+')
  return () => {
    Atomics.add(count, 0, 1)
    writeSync(file, count, 0, count.byteLength, 0)
  }
}

class OddDisk {
  readonly #bytes = new Uint8Array(SIZE)
  readonly #odd: Odd
  readonly #told: () => void

  constructor(seed: number, told: () => void) {
    this.#odd = new Odd(seed)
    this.#told = told
  }

  methods(asynchronous: boolean): DiskBackend {
    const good = (request: DiskRequest, data: Uint8Array): void => {
      if (request.op === 'read')
        data.set(this.#bytes.subarray(request.offset, request.offset + request.length))
      else this.#bytes.set(data, request.offset)
    }
    const either = (request: DiskRequest, data?: Uint8Array): void | Promise<void> => {
      if (request.offset < GOOD) return this.#misbehave(request, data, asynchronous) as undefined
      if (data) good(request, data)
      else this.#bytes.fill(0, request.offset, request.offset + request.length)
      return asynchronous ? Promise.resolve() : undefined
    }
    return { size: SIZE, read: either, write: either, discard: either, writeZeroes: either, flush: either }
  }

  #misbehave(request: DiskRequest, data: Uint8Array | undefined, asynchronous: boolean): unknown {
    const { chance } = this.#odd
    this.#told()
    if (chance.often(0.05)) Object.freeze(request)
    if (chance.often(0.05)) Object.assign(request, { op: this.#odd.value(), length: this.#odd.value() })
    if (chance.often(0.1)) data?.set(new Uint8Array(data.length).fill(chance.below(256)))
    // A synchronous method might return a promise, and would no longer be synchronous.
    if (!asynchronous || chance.often(0.4)) throw this.#odd.value()
    return chance.often(0.5) ? this.#odd.promise() : this.#odd.value()
  }

  batches(asynchronous: boolean): BatchBackend {
    const process = (batch: Batch): void | Promise<void> => {
      const bad: number[] = []
      for (let i = 0; i < batch.count; i++) {
        if ((batch.offset[i] ?? 0) < GOOD) bad.push(i)
        else this.#one(batch, i)
      }
      if (bad.length === 0) return undefined
      return this.#spoil(batch, bad, asynchronous) as undefined
    }
    const later = async (batch: Batch): Promise<void> => void (await settled(process(batch)))
    return {
      size: SIZE,
      operations: ['write', 'flush', 'discard', 'writeZeroes'],
      process: asynchronous ? later : process,
    }
  }

  #one(batch: Batch, i: number): void {
    const [offset = 0, length = 0] = [batch.offset[i], batch.length[i]]
    if (batch.op[i] === Op.read) batch.data(i).set(this.#bytes.subarray(offset, offset + length))
    else if (batch.op[i] === Op.write) this.#bytes.set(batch.data(i), offset)
    else this.#bytes.fill(0, offset, offset + length)
    batch.complete(i, batch.op[i] === Op.read || batch.op[i] === Op.write ? length : 0)
  }

  #spoil(batch: Batch, bad: readonly number[], asynchronous: boolean): unknown {
    const { chance } = this.#odd
    const odd = (): never => this.#odd.value() as never
    const quietly = (action: () => void): void => {
      try {
        action()
      } catch {} // It gets an exception for its mistake, and continues.
    }
    const spoil = chance.below(10)
    if (spoil === 0) Object.freeze(batch)
    else if (spoil === 1) quietly(() => Object.assign(batch, { count: odd(), length: odd(), result: odd() }))
    for (const i of bad) {
      this.#told()
      quietly(
        chance.of([
          () => batch.complete(i, odd()),
          () => batch.complete(odd(), odd()),
          () => batch.complete(i, chance.of([0, -5, 4096, -4095, 2 ** 31])),
          () => {
            batch.result[i] = odd()
          },
          () => void batch.data(odd()),
          () => void batch.data(i).fill(1),
        ]),
      )
    }
    if (chance.often(0.4)) throw odd()
    return asynchronous ? this.#odd.promise() : undefined
  }
}
