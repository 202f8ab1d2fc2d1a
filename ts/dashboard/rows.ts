import { basename } from 'node:path'
import type { Interval } from '../watch/interval.js'
import { intervalOf, sumOfOps, totalOf } from '../watch/interval.js'
import type { Reading } from '../watch/readings.js'
import { round } from './past.js'
import type { About, Row } from './protocol.js'

/** A row of zeroes. */
export const NOTHING: Row = rowOf([], 0)

/** What a disk, or several, did between two readings. */
export function rowOf(intervals: readonly Interval[], faults: number): Row {
  const seconds = Math.max(...intervals.map(interval => interval.seconds), 0)
  const total = totalOf(intervals.flatMap(({ queues }) => queues))
  const { read, write, flush, discard, writeZeroes, inFlight } = total
  const others = sumOfOps([flush, discard, writeZeroes])
  const { latency } = sumOfOps([read, write])
  const rate = (count: number): number => (seconds > 0 ? round(count / seconds) : 0)
  return [
    rate(read.ops),
    rate(write.ops),
    rate(others.ops),
    rate(read.bytes),
    rate(write.bytes),
    round(latency.p50),
    round(latency.p99),
    inFlight,
    rate(read.errors + write.errors + others.errors),
    rate(faults),
  ]
}

/** What was counted since the reading before. */
export function since(before: Reading | undefined, now: Reading): { interval: Interval; faults: number } {
  const interval = intervalOf(before, now)
  const [was, is] = [appliedIn(before), appliedIn(now)]
  // Rules that were set meanwhile count from 0.
  return { interval, faults: before && is >= was ? is - was : 0 }
}

function appliedIn(reading: Reading | undefined): number {
  return (reading?.faults?.rules ?? []).reduce((sum, { applied }) => sum + applied, 0)
}

/** What a disk is. */
export function aboutOf(
  { device, trouble }: Reading,
  { backend, source }: Pick<About, 'backend' | 'source'>,
): About {
  const { id, path, state, size, readOnly } = device
  const dead = device.state === 'live' && !device.serverAlive
  return {
    id,
    name: basename(path),
    state: dead ? 'dead' : state,
    size,
    readOnly,
    backend,
    source,
    trouble: trouble?.message ?? null,
  }
}
