import type * as native from '#binding'
import type { LatencyStats, OpCounters, QueueStats } from './info.js'
import { latencyOf } from './latency.js'

/** The counters of each queue. */
export function statsOf(device: native.Device): QueueStats[] {
  return device.stats().map(queue => ({
    ...queue,
    read: opOf(queue.read),
    write: opOf(queue.write),
    flush: opOf(queue.flush),
    discard: opOf(queue.discard),
    writeZeroes: opOf(queue.writeZeroes),
  }))
}

function opOf({ ops, bytes, errors, latency }: native.OpCounters): OpCounters {
  return { ops, bytes, errors, latency: timesOf(latency) }
}

function timesOf({ mean, max, buckets: numbers }: native.Latency): LatencyStats {
  const buckets: [number, number][] = []
  for (let at = 0; at + 1 < numbers.length; at += 2) {
    const [bound, count] = [toNanosecond(numbers[at] ?? 0), numbers[at + 1] ?? 0]
    const last = buckets.at(-1)
    if (last?.[0] === bound) last[1] += count
    else buckets.push([bound, count])
  }
  return latencyOf(buckets, toNanosecond(mean), toNanosecond(max))
}

/** Times are no more exact than that, and no longer to print. */
function toNanosecond(microseconds: number): number {
  return Math.round(microseconds * 1000) / 1000
}
