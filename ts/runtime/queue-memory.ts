import type * as native from '#binding'

/**
 * The memory that a queue shares with its engine. The native part provides the layout.
 *
 * V8 assumes that an `ArrayBuffer` does not change while JavaScript runs on its thread. That holds here: the
 * descriptions, and the data of a tag's next request, are written only during calls of this thread (`nextBatch`,
 * `poll`), in which the kernel copies. That is so even if a method has kept the view of a finished request. JavaScript
 * never sees memory that clients can write to at any time: the native part copies it.
 */
export class QueueMemory {
  readonly depth: number
  readonly op: Uint8Array
  readonly flags: Uint8Array
  readonly offset: Float64Array
  readonly length: Float64Array
  readonly result: Int32Array
  readonly generation: Uint32Array
  readonly tag: Uint16Array
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
    this.answerResult = new Int32Array(shared, at.answerResult, at.depth)
    this.answerGeneration = new Uint32Array(shared, at.answerGeneration, at.depth)
    this.answerTag = new Uint16Array(shared, at.answerTag, at.depth)
    this.#data = queue.data()
    this.#bufferSize = at.bufferSize
    this.#bufferStride = at.bufferStride
    this.#whole = new Array(at.depth).fill(undefined)
    this.#last = new Array(at.depth).fill(undefined)
  }

  /** The `length` bytes of a tag's request, in its buffer. */
  data(tag: number, length: number): Uint8Array {
    const last = this.#last[tag]
    if (last !== undefined && last.length === length) return last
    this.#whole[tag] ??= new Uint8Array(this.#data, tag * this.#bufferStride, this.#bufferSize)
    const whole = this.#whole[tag]
    const view = length === whole.length ? whole : whole.subarray(0, length)
    this.#last[tag] = view
    return view
  }
}
