import type { DiskTotals, QueueStats } from './info.js'

/** The counters of all queues of a disk in one. */
export function totalsOf(queues: readonly QueueStats[]): DiskTotals {
  const sum = (count: (queue: QueueStats) => number): number =>
    queues.reduce((total, queue) => total + count(queue), 0)
  return {
    reads: sum(({ read }) => read.ops),
    readBytes: sum(({ read }) => read.bytes),
    writes: sum(({ write }) => write.ops),
    writeBytes: sum(({ write }) => write.bytes),
    flushes: sum(({ flush }) => flush.ops),
    discards: sum(({ discard }) => discard.ops),
    discardBytes: sum(({ discard }) => discard.bytes),
    writeZeroes: sum(({ writeZeroes }) => writeZeroes.ops),
    writeZeroesBytes: sum(({ writeZeroes }) => writeZeroes.bytes),
    errors: sum(({ read, write, flush, discard, writeZeroes }) =>
      [read, write, flush, discard, writeZeroes].reduce((errors, each) => errors + each.errors, 0),
    ),
    inFlight: sum(({ inFlight }) => inFlight),
    turns: sum(({ turns }) => turns),
  }
}
