import type { LatencyStats } from './info.js'

/** The figures of a histogram whose buckets are sorted by their bounds. */
export function latencyOf(buckets: [number, number][], mean: number, max: number): LatencyStats {
  const count = buckets.reduce((sum, [, number]) => sum + number, 0)
  const at = (share: number): number => quantile(buckets, count, share, max)
  return { count, mean, p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max, buckets }
}

/** What `share` of all did not exceed, to the bounds of the buckets. */
function quantile(buckets: readonly [number, number][], count: number, share: number, max: number): number {
  const wanted = Math.max(Math.ceil(share * count), 1)
  let seen = 0
  for (const [bound, number] of buckets) {
    seen += number
    if (seen >= wanted) return Math.min(bound, max)
  }
  return 0
}

/** Those of several queues of one process as one: their buckets have the same bounds. */
export function sumOf(parts: readonly LatencyStats[]): LatencyStats {
  const counts = new Map<number, number>()
  let [total, count, max] = [0, 0, 0]
  for (const part of parts) {
    for (const [bound, number] of part.buckets) counts.set(bound, (counts.get(bound) ?? 0) + number)
    total += part.mean * part.count
    count += part.count
    max = Math.max(max, part.max)
  }
  return latencyOf(sorted(counts), count === 0 ? 0 : total / count, max)
}

/**
 * What came after an earlier reading of the same. Its maximum is only known to the bounds of the buckets, unless it is
 * a new one.
 */
export function since(now: LatencyStats, before: LatencyStats): LatencyStats {
  const counts = new Map(now.buckets)
  for (const [bound, number] of before.buckets) counts.set(bound, (counts.get(bound) ?? 0) - number)
  const buckets = sorted(counts).filter(([, number]) => number > 0)
  const count = now.count - before.count
  const mean = count <= 0 ? 0 : (now.mean * now.count - before.mean * before.count) / count
  const max = now.max > before.max ? now.max : Math.min(now.max, buckets.at(-1)?.[0] ?? 0)
  return latencyOf(buckets, mean, max)
}

function sorted(counts: Map<number, number>): [number, number][] {
  return [...counts].sort(([a], [b]) => a - b)
}
