import type * as native from '#binding'

/** So many mappings are kept: what is shared no more is not told. */
const MEMORIES = 64

/** The memory a queue shares with its engine. The native part says where what lies. */
export class QueueMemory {
  readonly depth: number
  readonly op: Uint8Array
  readonly flags: Uint8Array
  readonly offset: Float64Array
  readonly length: Float64Array
  readonly result: Int32Array
  readonly generation: Uint32Array
  readonly tag: Uint16Array
  /** By tag: the shared memory that its request's data lies in, and from where on. */
  readonly #memory: Uint32Array
  readonly #memoryOffset: Uint32Array
  /** This thread's mappings of shared memory. */
  readonly #memories = new Map<number, ArrayBuffer>()
  readonly #queue: native.Queue
  readonly answerResult: Int32Array
  readonly answerGeneration: Uint32Array
  readonly answerTag: Uint16Array
  /** Each tag's whole buffer, made at its first use. */
  readonly #whole: (Uint8Array | undefined)[]
  /** Each tag's buffer at the length it was last used with: mostly the same again. */
  readonly #last: (Uint8Array | undefined)[]
  readonly #data: ArrayBuffer
  readonly #bufferSize: number
  readonly #bufferStride: number

  constructor(queue: native.Queue) {
    const at = queue.layout
    const shared = queue.shared()
    this.depth = at.depth
    this.op = new Uint8Array(shared, at.op, at.depth)
    this.flags = new Uint8Array(shared, at.flags, at.depth)
    this.offset = new Float64Array(shared, at.offset, at.depth)
    this.length = new Float64Array(shared, at.length, at.depth)
    this.result = new Int32Array(shared, at.result, at.depth)
    this.generation = new Uint32Array(shared, at.generation, at.depth)
    this.tag = new Uint16Array(shared, at.tag, at.depth)
    this.#queue = queue
    this.#memory = new Uint32Array(shared, at.memory, at.depth)
    this.#memoryOffset = new Uint32Array(shared, at.memoryOffset, at.depth)
    this.answerResult = new Int32Array(shared, at.answerResult, at.depth)
    this.answerGeneration = new Uint32Array(shared, at.answerGeneration, at.depth)
    this.answerTag = new Uint16Array(shared, at.answerTag, at.depth)
    this.#data = queue.data()
    this.#bufferSize = at.bufferSize
    this.#bufferStride = at.bufferStride
    this.#whole = new Array(at.depth).fill(undefined)
    this.#last = new Array(at.depth).fill(undefined)
  }

  /** The `length` bytes of a tag's request: in its buffer, or in memory that the disk shares with its clients. */
  data(tag: number, length: number): Uint8Array {
    if (this.#memory[tag] !== 0) return this.#shared(tag, length)
    const last = this.#last[tag]
    if (last !== undefined && last.length === length) return last
    this.#whole[tag] ??= new Uint8Array(this.#data, tag * this.#bufferStride, this.#bufferSize)
    const whole = this.#whole[tag]
    const view = length === whole.length ? whole : whole.subarray(0, length)
    this.#last[tag] = view
    return view
  }

  #shared(tag: number, length: number): Uint8Array {
    const id = this.#memory[tag] as number
    let buffer = this.#memories.get(id)
    if (buffer === undefined) {
      if (this.#memories.size >= MEMORIES) this.#memories.clear()
      buffer = this.#queue.memory(id)
      this.#memories.set(id, buffer)
    }
    return new Uint8Array(buffer, this.#memoryOffset[tag], length)
  }
}
