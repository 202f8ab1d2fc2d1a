import { randomNumbers } from '../support/mortal.js'

/** Choices that are the same for the same seed. */
export class Chance {
  readonly number: () => number

  constructor(seed: number) {
    this.number = randomNumbers(seed)
  }

  /** A whole number from `low` to below `high`. */
  below(high: number, low = 0): number {
    return low + Math.floor(this.number() * (high - low))
  }

  /** Whether something that happens so often, of one, happens. */
  often(share: number): boolean {
    return this.number() < share
  }

  of<T>(choices: readonly T[]): T {
    return choices[this.below(choices.length)] as T
  }
}
