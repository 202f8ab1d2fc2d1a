import { FIELDS, type Past, type Row } from './protocol.js'

/** How many seconds are kept. */
export const KEPT = 300

/** When the last looks were. */
export class Clock {
  readonly #times = new Float64Array(KEPT)
  #looks = 0

  /** The number of the next look. */
  tick(time: number): number {
    this.#times[this.#looks % KEPT] = time
    return this.#looks++
  }

  /** The numbers of the looks that are kept, the first one first. */
  kept(): number[] {
    const first = Math.max(this.#looks - KEPT, 0)
    return Array.from({ length: this.#looks - first }, (_, at) => first + at)
  }

  timeOf(look: number): number {
    return this.#times[look % KEPT] ?? 0
  }
}

/** The last rows of a disk: 12 kB, however long that is watched. */
export class Rows {
  readonly #numbers = new Float32Array(KEPT * FIELDS.length)
  readonly #looks = new Float64Array(KEPT).fill(-1)

  add(look: number, row: Row): void {
    this.#numbers.set(row, (look % KEPT) * FIELDS.length)
    this.#looks[look % KEPT] = look
  }

  /** As the page gets them. */
  past(clock: Clock): Past {
    const looks = clock.kept()
    const number = (look: number, field: number): number | null =>
      this.#looks[look % KEPT] === look
        ? round(this.#numbers[(look % KEPT) * FIELDS.length + field] ?? 0)
        : null
    return {
      times: looks.map(look => clock.timeOf(look)),
      fields: FIELDS.map((_, field) => looks.map(look => number(look, field))),
    }
  }
}

/** To what people can tell apart: fewer bytes, and fewer rows that differ. */
export function round(value: number): number {
  if (value >= 1000 || value === 0) return Math.round(value)
  return Number(value.toPrecision(3))
}
