import { type Account, type Entry, isWritten, type Written } from './account.js'

/** Where moments are in a timeline, from 0 to `width`. */
export interface TimeScale {
  /** Where a moment begins. */
  from(moment: number): number
  /** Where it ends. */
  to(moment: number): number
}

/** Entries that are left out take up as much as so many moments. */
const GAP = 4
/** The part of a timeline for what was not durable, unless little happened then. */
const OPEN = 0.6
/** A moment after the last flush is wider than one before by no more than this. */
const MOST = 20

/**
 * The moments of these entries, one beside the other. Those that decide what may be lost, after the last flush, get more room than
 * those before.
 */
export function timeScale({ entries, cut, since = 0 }: Account, width: number): TimeScale {
  const weights = new Map<number, number>([[cut, 1]])
  for (const entry of entries) {
    weights.set(entry.start, entry.kind === 'left-out' ? GAP : 1)
    if (entry.done !== undefined && entry.done !== null) weights.set(entry.done, 1)
  }
  const moments = [...weights.keys()].sort((one, other) => one - other)
  const sum = (some: readonly number[]): number =>
    some.reduce((all, moment) => all + (weights.get(moment) ?? 0), 0)
  const early = sum(moments.filter(moment => moment < since))
  const late = sum(moments.filter(moment => moment >= since))
  // early : late × factor = 1 − OPEN : OPEN
  const factor = Math.min(MOST, Math.max(1, (early * OPEN) / (1 - OPEN) / late))
  const unit = width / (early + late * factor)
  const places: number[] = []
  let at = 0
  for (const moment of moments) {
    places.push(at)
    at += (weights.get(moment) ?? 0) * unit * (moment < since ? 1 : factor)
  }
  places.push(width)
  const index = (moment: number): number => firstNotBelow(moments, moment)
  return {
    from: moment => places[index(moment)] ?? width,
    to: moment => places[index(moment) + 1] ?? width,
  }
}

/** Where bytes of the disk are in a timeline, from the top down. */
export interface PlaceScale {
  /** Where a byte is. */
  at(byte: number): number
  /** Where written parts of the disk begin, in order. */
  readonly starts: readonly number[]
}

/** A discard of more than so many units is no place of its own: a new file system discards the whole disk. */
const LARGE = 64
/** How much room what was never written takes up, compared with a write. */
const UNWRITTEN = 0.4

/** Only what was written has room, in the order of the disk: as much as the number of writes there. */
export function placeScale({ entries, unit }: Account, top: number, height: number): PlaceScale {
  const ranges = merged(entries.filter(isWritten).filter(write => isPlace(write, unit)))
  const room = ({ writes }: Range): number => writes
  const total = ranges.reduce((all, range) => all + room(range) + UNWRITTEN, -UNWRITTEN)
  const scale = height / Math.max(total, 1)
  const bytes: number[] = []
  const places: number[] = []
  let at = top
  for (const range of ranges) {
    bytes.push(range.start, range.end)
    places.push(at, at + room(range) * scale)
    at += (room(range) + UNWRITTEN) * scale
  }
  return { starts: ranges.map(({ start }) => start), at: byte => between(bytes, places, byte) ?? top }
}

function isPlace({ kind, length, lost }: Written, unit: number): boolean {
  return lost > 0 || kind !== 'discard' || length <= LARGE * unit
}

interface Range {
  start: number
  end: number
  writes: number
}

function merged(writes: readonly Written[]): Range[] {
  const sorted = [...writes].sort((one, other) => one.offset - other.offset)
  const ranges: Range[] = []
  for (const { offset, length } of sorted) {
    const last = ranges.at(-1)
    if (last && offset <= last.end) {
      last.end = Math.max(last.end, offset + length)
      last.writes++
    } else {
      ranges.push({ start: offset, end: offset + length, writes: 1 })
    }
  }
  return ranges
}

/** Interpolates; beyond the first and the last it stays there. */
function between(from: readonly number[], to: readonly number[], value: number): number | undefined {
  const at = firstNotBelow(from, value)
  if (at === 0) return to[0]
  if (at === from.length) return to.at(-1)
  const [start = 0, end = 0] = [from[at - 1], from[at]]
  const [low = 0, high = 0] = [to[at - 1], to[at]]
  return low + ((high - low) * (value - start)) / (end - start)
}

/** The index of the first of sorted numbers that is not below a value. */
export function firstNotBelow(numbers: readonly number[], value: number): number {
  let [low, high] = [0, numbers.length]
  while (low < high) {
    const middle = (low + high) >> 1
    if ((numbers[middle] ?? 0) < value) low = middle + 1
    else high = middle
  }
  return low
}

/** Of places in order, those that are at least so far apart; the last ones win. */
export function apart<T>(all: readonly T[], place: (each: T) => number, least: number): T[] {
  const chosen: T[] = []
  for (const each of [...all].reverse()) {
    const last = chosen.at(-1)
    if (last === undefined || place(last) - place(each) >= least) chosen.push(each)
  }
  return chosen.reverse()
}

/** When an entry ended: a write in flight at the cut. */
export function endOf(entry: Entry, cut: number): number {
  if (entry.standing === 'in-flight') return cut
  return entry.done ?? entry.start
}
