import type { DiskOperation } from './history.js'

/**
 * How many reads and writes had a block in common with a write that was in flight at the same time, and began before; of two
 * writes that overlap, the second one counts.
 */
export function concurrentIn(history: readonly DiskOperation[]): number {
  const writtenUntil = new Map<number, number>()
  const readUntil = new Map<number, number>()
  let concurrent = 0
  for (const operation of [...history].sort((a, b) => a.start - b.start)) {
    if (!('values' in operation)) continue
    const { op, block, values, start, end = Infinity } = operation
    const blocks = values.map((_, at) => block + at)
    const meets = (until: Map<number, number>): boolean =>
      blocks.some(each => (until.get(each) ?? -Infinity) > start)
    if (meets(writtenUntil) || (op === 'write' && meets(readUntil))) concurrent++
    const own = op === 'write' ? writtenUntil : readUntil
    for (const each of blocks) own.set(each, Math.max(own.get(each) ?? -Infinity, end))
  }
  return concurrent
}
