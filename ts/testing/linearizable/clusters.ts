import type { Access, BlockValue } from './history.js'
import { LargestOf } from './largest-of.js'

/** Why a block is no register, found at the end of a read. */
export interface Conflict {
  readonly read: Access
  readonly kind: 'stale' | 'future' | 'unwritten' | 'disorder'
  /** Of `stale`: what had replaced what the read saw. */
  readonly newer?: BlockValue | undefined
  /** Of `disorder`: a part of what happened that no order explains. */
  readonly part?: readonly Access[] | undefined
}

/** A value's write and the reads that saw it. In an order that explains them, they follow each other without another write. */
interface Cluster {
  /** Its place in the order of `firstEnd`. */
  readonly index: number
  /** When the first of them ended. From then on the value has been there. */
  readonly firstEnd: number
  /** When the last of them began, so far. Then the value was still there, or not there yet. */
  lastStart: number
}

/** Whether no value was written to a block twice. */
export function isUnique(accesses: readonly Access[], initial: BlockValue): boolean {
  const written = accesses.filter(({ isRead }) => !isRead).map(({ value }) => value)
  return new Set([initial, ...written]).size === 1 + written.length
}

/**
 * Whether a block is a register, if no value was written to it twice.
 *
 * If something of one value ended before something of another one began, all of the first value comes before all of the other.
 * An order exists unless two values come before each other in this way: longer circles have such a pair among them (Gibbons and
 * Korach, “Testing Shared Memories”, 1997). So at the end of each read, its value is compared with all others at once: is there
 * one that was there before the last of this value began, and of which something began after this value was there?
 */
export function conflictOfUnique(accesses: readonly Access[], initial: BlockValue): Conflict | undefined {
  const writes = new Map(accesses.filter(({ isRead }) => !isRead).map(write => [write.value, write]))
  const ended = accesses.filter(({ end }) => end !== Infinity).sort((a, b) => a.end - b.end)
  const before: Cluster = { index: 0, firstEnd: -Infinity, lastStart: -Infinity }
  const clusters = new Map<BlockValue, Cluster>([[initial, before]])
  const values: BlockValue[] = [initial]
  const firstEnds = [-Infinity]
  const lastStarts = new LargestOf(writes.size + 1)
  for (const access of ended) {
    const { value, isRead, start, end } = access
    const write = writes.get(value)
    if (isRead && !write && value !== initial) return { read: access, kind: 'unwritten' }
    if (isRead && write && write.start > end) return { read: access, kind: 'future' }
    let cluster = clusters.get(value)
    if (!cluster) {
      cluster = { index: values.length, firstEnd: end, lastStart: write?.start ?? start }
      clusters.set(value, cluster)
      values.push(value)
      firstEnds.push(end)
    }
    cluster.lastStart = Math.max(cluster.lastStart, start)
    lastStarts.set(cluster.index, cluster.lastStart)
    if (!isRead) continue
    const earlier = countBelow(firstEnds, start)
    const { index, firstEnd } = cluster
    const newer = [lastStarts.among(0, Math.min(index, earlier)), lastStarts.among(index + 1, earlier)].find(
      other => other !== undefined && lastStarts.get(other) > firstEnd,
    )
    if (newer !== undefined) return { read: access, kind: 'stale', newer: values[newer] }
  }
  return undefined
}

/** How many numbers of a list in ascending order are below a limit. */
function countBelow(numbers: readonly number[], limit: number): number {
  let [low, high] = [0, numbers.length]
  while (low < high) {
    const middle = (low + high) >> 1
    if ((numbers[middle] as number) < limit) low = middle + 1
    else high = middle
  }
  return low
}
