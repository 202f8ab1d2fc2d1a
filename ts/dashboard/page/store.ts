import { type About, type Disks, FIELDS, type Field, type Past, type Row, type Tick } from '../protocol.js'

/** How many seconds of each disk the page keeps, for the small charts of the list. */
const RECENT = 60
/** How many seconds the charts show. */
export const SHOWN = 300

/** A disk. */
export class Disk {
  about: About
  row: Row
  /** Bytes a second, the latest last. */
  readonly recent: Float32Array = new Float32Array(RECENT)
  /** Goes up whenever there is something new to show. */
  steps = 0

  constructor(about: About, row: Row) {
    this.about = about
    this.row = row
  }

  get(field: Field): number {
    return numberOf(this.row, field)
  }

  /** What was done in a second. */
  step(): void {
    this.steps++
    this.recent.copyWithin(0, 1)
    this.recent[RECENT - 1] = this.get('readBytes') + this.get('writeBytes')
  }
}

const PLACES: ReadonlyMap<string, number> = new Map(FIELDS.map((field, at) => [field, at]))

/** A number of a row. */
export function numberOf(row: Row, field: Field): number {
  return row[PLACES.get(field) ?? -1] ?? 0
}

/** Columns of numbers, the latest last: what the charts show. */
export class Series {
  times: number[] = []
  readonly fields: (number | null)[][] = FIELDS.map(() => [])

  /** Begins anew. */
  reset({ times, fields }: Past): void {
    this.times = [...times]
    for (const [at, numbers] of fields.entries()) this.fields[at] = [...numbers]
  }

  add(time: number, row: Row): void {
    this.times.push(time)
    for (const [at, numbers] of this.fields.entries()) numbers.push(row[at] ?? 0)
    if (this.times.length <= SHOWN) return
    this.times.shift()
    for (const numbers of this.fields) numbers.shift()
  }

  of(field: Field): (number | null)[] {
    return this.fields[PLACES.get(field) ?? -1] ?? []
  }
}

/** All that the page knows of the disks. */
export class Store {
  readonly disks: Map<number, Disk> = new Map()
  readonly all: Series = new Series()
  total: Row = FIELDS.map(() => 0)
  time = 0

  reset({ disks, total, past, time }: Disks): void {
    const ids = new Set(disks.map(({ about }) => about.id))
    for (const id of this.disks.keys()) if (!ids.has(id)) this.disks.delete(id)
    for (const { about, row } of disks) this.#put(about, row)
    this.all.reset(past)
    this.total = total
    this.time = time
  }

  /** Whether disks have come or gone, or are not as they were. */
  apply({ time, rows, about, gone, total, trouble }: Tick): boolean {
    if (trouble !== null) return false
    this.time = time
    this.total = total
    this.all.add(time, total)
    for (const id of gone) this.disks.delete(id)
    for (const each of about) this.#put(each, this.disks.get(each.id)?.row ?? FIELDS.map(() => 0))
    for (const [id, ...row] of rows) {
      const disk = this.disks.get(id)
      if (disk) disk.row = row
    }
    for (const disk of this.disks.values()) disk.step()
    return about.length > 0 || gone.length > 0
  }

  #put(about: About, row: Row): void {
    const known = this.disks.get(about.id)
    if (!known) this.disks.set(about.id, new Disk(about, row))
    else {
      known.about = about
      known.row = row
      known.steps++
    }
  }
}
