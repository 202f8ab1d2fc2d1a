import { hostname } from 'node:os'
import { formatFaultRule } from '../backends/fault-text.js'
import { wrap } from '../errors.js'
import { version } from '../version.js'
import type { Reading } from '../watch/readings.js'
import { Clock, Rows } from './past.js'
import type { About, Detail, Disks, Past, Row, Tick } from './protocol.js'
import { aboutOf, NOTHING, rowOf, since } from './rows.js'
import type { Source } from './source.js'

/** A disk, as it was when it was read last. */
interface Known {
  /** Tells it from a later one of the same number. */
  readonly identity: string | undefined
  readonly about: About
  /** The same as JSON, to see whether it has changed. */
  readonly text: string
  readonly row: Row
  readonly reading: Reading
  readonly rows: Rows
}

/** What the disks of a source do, from one look to the next. */
export class Feed {
  readonly #source: Source
  readonly #known = new Map<number, Known>()
  readonly #clock = new Clock()
  readonly #all = new Rows()
  readonly #clockNow: () => number
  #time = 0
  #total: Row = NOTHING

  constructor(source: Source, now: () => number = Date.now) {
    this.#source = source
    this.#clockNow = now
  }

  /** Reads all disks, and says what has changed. */
  async look(): Promise<Tick> {
    let readings: readonly Reading[]
    try {
      readings = await this.#source.read()
    } catch (error) {
      return { ...this.#tick(), trouble: wrap(error).message }
    }
    this.#time = this.#clockNow()
    const look = this.#clock.tick(this.#time)
    const about: About[] = []
    const rows: Tick['rows'][number][] = []
    const intervals = []
    let faults = 0
    for (const reading of readings) {
      const { id } = reading.device
      const shown = this.#known.get(id)
      const identity = this.#source.identity(id)
      const before = shown?.identity === identity ? shown : undefined
      const did = since(before?.reading, reading)
      intervals.push(did.interval)
      faults += did.faults
      const now = this.#now(reading, before, identity, rowOf([did.interval], did.faults))
      now.rows.add(look, now.row)
      this.#known.set(id, now)
      if (now.text !== shown?.text) about.push(now.about)
      if (!same(now.row, shown?.row ?? NOTHING)) rows.push([id, ...now.row])
    }
    const ids = new Set(readings.map(({ device }) => device.id))
    const gone = [...this.#known.keys()].filter(id => !ids.has(id))
    for (const id of gone) this.#known.delete(id)
    this.#total = rowOf(intervals, faults)
    this.#all.add(look, this.#total)
    return { ...this.#tick(), rows, about, gone }
  }

  /** All disks, as they were when they were read last. */
  disks(mayChange: boolean): Disks {
    return {
      version: version(),
      host: hostname(),
      mayChange,
      time: this.#time,
      disks: [...this.#known.values()].map(({ about, row }) => ({ about, row })),
      total: this.#total,
      past: this.#all.past(this.#clock),
    }
  }

  /** Whether there is such a disk. */
  has(id: number): boolean {
    return this.#known.has(id)
  }

  /** What a disk did in the last minutes. */
  pastOf(id: number): Past {
    return (this.#known.get(id)?.rows ?? new Rows()).past(this.#clock)
  }

  /** What is known of a disk beside its numbers. */
  async detailOf(id: number): Promise<Detail> {
    const stack = await this.#source.stack(id)
    const reading = this.#known.get(id)?.reading
    const faults = reading?.faults
    const lines = faults?.rules.map(({ rule, ...counts }) => ({ rule: formatFaultRule(rule), ...counts }))
    return {
      stack,
      layers: reading?.layers ?? [],
      lazy: reading?.lazy ?? null,
      faults: faults && lines ? { rules: lines, hanging: faults.hanging } : null,
    }
  }

  #now(reading: Reading, before: Known | undefined, identity: string | undefined, row: Row): Known {
    // Its record is read again only if its server, or what it is, has changed.
    const served = before?.reading.device.pid === reading.device.pid && !before.reading.trouble
    const what = served ? before.about : this.#source.describe(reading.device.id)
    const about = aboutOf(reading, what)
    return { identity, about, text: JSON.stringify(about), row, reading, rows: before?.rows ?? new Rows() }
  }

  #tick(): Tick {
    return { time: this.#time, rows: [], about: [], gone: [], total: this.#total, trouble: null }
  }
}

function same(one: Row, other: Row): boolean {
  return one.every((number, at) => number === other[at])
}
