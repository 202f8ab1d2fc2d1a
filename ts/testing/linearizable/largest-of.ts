/** Numbers in places, and which of those in a range of places is the largest: a tree of the larger of each two. */
export class LargestOf {
  readonly #leaves: number
  readonly #nodes: Float64Array

  /** @param places - How many there are; each has `-Infinity`. */
  constructor(places: number) {
    this.#leaves = 2 ** Math.ceil(Math.log2(Math.max(places, 1)))
    this.#nodes = new Float64Array(2 * this.#leaves).fill(-Infinity)
  }

  get(place: number): number {
    return this.#nodes[this.#leaves + place] as number
  }

  set(place: number, value: number): void {
    let node = this.#leaves + place
    this.#nodes[node] = value
    while (node > 1) {
      node >>= 1
      this.#nodes[node] = Math.max(this.#nodes[2 * node] as number, this.#nodes[2 * node + 1] as number)
    }
  }

  /** The place of the largest from one place to before another; undefined if there is none in between. */
  among(from: number, to: number): number | undefined {
    let best: number | undefined
    const consider = (node: number): void => {
      if (best === undefined || (this.#nodes[node] as number) > (this.#nodes[best] as number)) best = node
    }
    for (let [low, high] = [this.#leaves + from, this.#leaves + to]; low < high; low >>= 1, high >>= 1) {
      if (low & 1) consider(low++)
      if (high & 1) consider(--high)
    }
    return best === undefined ? undefined : this.#leafOf(best)
  }

  #leafOf(node: number): number {
    let at = node
    while (at < this.#leaves) at = this.#nodes[2 * at] === this.#nodes[at] ? 2 * at : 2 * at + 1
    return at - this.#leaves
  }
}
