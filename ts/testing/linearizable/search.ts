import { UblkError } from '../../errors.js'
import { type Conflict, conflictOfUnique, isUnique } from './clusters.js'
import type { Access, BlockValue } from './history.js'
import { shortest } from './shortest.js'

/**
 * One way in which what happened so far may have gone. Operations that have begun and not ended are in the tables `writes` and
 * `reads`; a letter for each says how it is with it.
 */
interface Way {
  /** What the block holds. */
  readonly value: BlockValue
  /**
   * `d` (due): it must take effect. `f` (free): it may take effect, but need not: it is optional, or another write came after it
   * began, and it may have been immediately before that one. `t`: it has taken effect.
   */
  readonly writes: string
  /** `w`: it waits for its value. `s`: it has seen it. */
  readonly reads: string
}

/** More ways than this at a time are not looked at. */
const LIMIT = 20_000

/**
 * Whether a block is a register, if values were written to it more than once, such as zeroes: goes through all ways in which it
 * may have gone, an operation's start and end after the other. (Wing and Gong's search, in the form of Lowe's “Testing for
 * linearizability”, 2017: operations take effect as late as possible, when one has to.)
 *
 * @throws UblkError of kind `limit`.
 */
export function conflictOfSearch(
  block: number,
  accesses: readonly Access[],
  initial: BlockValue,
): Conflict | undefined {
  const read = firstImpossible(block, accesses, initial)
  if (!read) return undefined
  const { value, end } = read
  const writers = accesses.filter(access => !access.isRead && access.value === value)
  if (value !== initial && writers.length === 0) return { read, kind: 'unwritten' }
  if (value !== initial && writers.every(({ start }) => start > end)) return { read, kind: 'future' }
  const fails = (part: readonly Access[]): boolean => firstImpossible(block, part, initial) === read
  const before = accesses.filter(({ start }) => start <= end)
  const part = shortest(before, read, fails)
  // What is left may be simple enough for a better reason.
  const simple = isUnique(part, initial) ? conflictOfUnique(part, initial) : undefined
  return simple ?? { read, kind: 'disorder', part }
}

/** The read at whose end no way is left; of all, the first to end. */
function firstImpossible(
  block: number,
  accesses: readonly Access[],
  initial: BlockValue,
): Access | undefined {
  const seenUntil = new Map<BlockValue, number>()
  for (const { isRead, value, end } of accesses) {
    if (isRead) seenUntil.set(value, Math.max(end, seenUntil.get(value) ?? end))
  }
  const writes: Access[] = []
  const reads: Access[] = []
  let ways: Way[] = [{ value: initial, writes: '', reads: '' }]
  for (const { access, isEnd } of eventsOf(accesses)) {
    const { isRead, value, optional } = access
    if (!isEnd && isRead) {
      reads.push(access)
      ways = ways.map(way => ({ ...way, reads: way.reads + (way.value === value ? 's' : 'w') }))
    } else if (!isEnd) {
      writes.push(access)
      ways = ways.map(way => ({ ...way, writes: way.writes + (optional ? 'f' : 'd') }))
    } else {
      const pending = isRead ? reads : writes
      const place = pending.indexOf(access)
      const isSeenLater = (seenUntil.get(value) ?? -Infinity) >= access.end
      const left = new Map<string, Way>()
      for (const way of waysPast(block, ways, { writes, reads, isRead, place, isSeenLater })) {
        const without = isRead
          ? { ...way, reads: way.reads.slice(0, place) + way.reads.slice(place + 1) }
          : { ...way, writes: way.writes.slice(0, place) + way.writes.slice(place + 1) }
        left.set(keyOf(without), without)
      }
      pending.splice(place, 1)
      ways = [...left.values()]
      if (ways.length === 0) return access
    }
  }
  return undefined
}

interface Pending {
  readonly writes: readonly Access[]
  readonly reads: readonly Access[]
  /** The operation that ends is a read, or else a write. */
  readonly isRead: boolean
  /** Its place in its table. */
  readonly place: number
  /** Whether a read that ends later sees what it has written. */
  readonly isSeenLater: boolean
}

/**
 * The ways in which the operation that ends has seen its value, or has taken effect, or need not any more. If need be, other writes
 * take effect before it, and this is the last moment at which a write can.
 */
function waysPast(block: number, ways: readonly Way[], pending: Pending): Way[] {
  const { isRead, place, isSeenLater } = pending
  const isOpen = (way: Way): boolean => (isRead ? way.reads[place] === 'w' : way.writes[place] === 'd')
  const isFree = (way: Way): boolean => !isRead && isSeenLater && way.writes[place] === 'f'
  const past = ways.filter(way => !isOpen(way))
  let some = ways.filter(way => isOpen(way) || isFree(way))
  const known = new Set<string>()
  while (some.length > 0) {
    const further: Way[] = []
    for (const way of some) {
      for (const next of steps(way, pending)) {
        const key = keyOf(next)
        if (known.has(key)) continue
        known.add(key)
        if (isOpen(next) || isFree(next)) further.push(next)
        if (!isOpen(next) && (isOpen(way) || !isFree(next))) past.push(next)
      }
    }
    some = further
    if (known.size > LIMIT) throw tooMany(block)
  }
  return past
}

/** One more write takes effect: the one that ends, or one whose value a read waits for. Others would only be written over. */
function steps(way: Way, { writes, reads, isRead, place }: Pending): Way[] {
  const wanted = new Set(reads.filter((_, at) => way.reads[at] === 'w').map(({ value }) => value))
  return writes.flatMap(({ value }, index) => {
    if (way.writes[index] === 't' || !(wanted.has(value) || (!isRead && index === place))) return []
    const after = [...way.writes].map((state, at) => (at === index ? 't' : state === 'd' ? 'f' : state))
    const seen = reads.map((read, at) => (read.value === value ? 's' : (way.reads[at] as string)))
    return [{ value, writes: after.join(''), reads: seen.join('') }]
  })
}

/** Starts come before ends at the same time: only what ended before something began comes before it. */
function eventsOf(accesses: readonly Access[]): { access: Access; isEnd: boolean }[] {
  const starts = accesses.map(access => ({ access, isEnd: false, at: access.start }))
  const ends = accesses.map(access => ({ access, isEnd: true, at: access.end }))
  const finite = [...starts, ...ends].filter(({ at }) => at !== Infinity)
  return finite.sort((a, b) => a.at - b.at || Number(a.isEnd) - Number(b.isEnd))
}

function keyOf({ value, writes, reads }: Way): string {
  return `${writes} ${reads} ${typeof value} ${value}`
}

function tooMany(block: number): UblkError {
  return new UblkError('limit', `too many operations on block ${block} were concurrent to find an order`, {
    hint: 'use fewer clients, or fewer zeroes and discards',
  })
}
