/** Which operations the clients of a check do: a seed determines it. */
export class Load {
  readonly #next: () => number
  readonly #blocks: number
  #again: { readonly block: number; readonly count: number } | undefined

  /**
   * @param blocks - How many there are.
   * @param seed - A whole number.
   */
  constructor(blocks: number, seed: number) {
    this.#next = randomNumbers(seed)
    this.#blocks = blocks
  }

  /** The next operation, and on which blocks. Half of all writes are read back at once, which finds a disk that answers too early. */
  next(): { readonly op: 'read' | 'write' | 'flush'; readonly block: number; readonly count: number } {
    const again = this.#again
    this.#again = undefined
    if (again) return { op: 'read', ...again }
    const range = this.range()
    const share = this.#next()
    if (share < 0.01) return { op: 'flush', ...range }
    if (share < 0.45) return { op: 'read', ...range }
    if (this.#next() < 0.5) this.#again = range
    return { op: 'write', ...range }
  }

  /** One block, or several. */
  range(): { readonly block: number; readonly count: number } {
    const longest = Math.min(LONGEST, this.#blocks)
    const count = this.#next() < 0.4 ? 1 : 1 + Math.floor(this.#next() * longest)
    return { block: Math.floor(this.#next() * (this.#blocks - count + 1)), count }
  }

  /** A number from 0 to below 1. */
  number(): number {
    return this.#next()
  }
}

/** The most blocks that an operation has. */
export const LONGEST = 8

/** Numbers from 0 to below 1 that a seed determines (“mulberry32”). */
function randomNumbers(seed: number): () => number {
  let state = seed | 0
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}
