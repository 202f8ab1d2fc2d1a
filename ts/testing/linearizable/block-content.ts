import type { BlockValue } from './history.js'

/**
 * What the blocks of a check hold. Each eight bytes of a block name the write, the block, and their place in it, and have a sum over
 * these: so a block that has parts of several writes, or another block's data, is recognized.
 */
export class BlockContent {
  readonly #blockSize: number
  readonly #salt: number

  /**
   * @param blockSize - In bytes.
   * @param salt - A number of this run: what an earlier one has left is not taken for this one's.
   */
  constructor(blockSize: number, salt: number) {
    this.#blockSize = blockSize
    this.#salt = salt
  }

  /**
   * Fills blocks.
   *
   * @param into - Their bytes.
   * @param first - The number of the first one, below 65536.
   * @param id - The number of the write, from 1 to 2 ** 32 - 1.
   */
  fill(into: DataView, first: number, id: number): void {
    for (let at = 0; at < into.byteLength; at += 8) {
      const block = first + Math.floor(at / this.#blockSize)
      into.setUint32(at, id, true)
      into.setUint16(at + 4, block, true)
      into.setUint16(at + 6, this.#sum(id, block, at % this.#blockSize), true)
    }
  }

  /** What a block holds: the number of a write, 0 for zeroes, or in words what else is there. */
  read(bytes: DataView, block: number): BlockValue {
    const runs: { from: number; id: number; block: number }[] = []
    for (let at = 0; at < this.#blockSize; at += 8) {
      const part = this.#part(bytes, at)
      const last = runs.at(-1)
      if (last?.id !== part.id || last.block !== part.block) runs.push({ from: at, ...part })
    }
    const [only] = runs
    if (runs.length === 1 && only && (only.id === 0 || (only.id > 0 && only.block === block))) return only.id
    const texts = runs.slice(0, MOST).map(({ from, ...part }, index) => {
      const end = runs[index + 1]?.from ?? this.#blockSize
      const what = textOf(part, block)
      return runs.length === 1 ? what : `${what} in bytes ${from} to ${end - 1}`
    })
    return `${texts.join(', ')}${runs.length > MOST ? ', and more' : ''}`
  }

  #part(bytes: DataView, at: number): { id: number; block: number } {
    const [id, block, sum] = [
      bytes.getUint32(at, true),
      bytes.getUint16(at + 4, true),
      bytes.getUint16(at + 6, true),
    ]
    if (id === 0 && block === 0 && sum === 0) return { id: 0, block: 0 }
    return id > 0 && sum === this.#sum(id, block, at) ? { id, block } : { id: -1, block: 0 }
  }

  /** A sum that differs with each of these, most likely. */
  #sum(id: number, block: number, at: number): number {
    let sum =
      Math.imul(id ^ this.#salt, 0x9e3779b1) ^
      Math.imul(block + 1, 0x85ebca6b) ^
      Math.imul(at + 1, 0xc2b2ae35)
    sum = Math.imul(sum ^ (sum >>> 15), 0x2c1b3c6d)
    return (sum ^ (sum >>> 13)) & 0xffff
  }
}

/** More parts than this are not described. */
const MOST = 4

function textOf(part: { id: number; block: number }, block: number): string {
  if (part.id === 0) return 'zeroes'
  if (part.id < 0) return 'bytes that nobody wrote'
  return part.block === block ? `${part.id}` : `what ${part.id} wrote to block ${part.block}`
}
