import type { BlockValue, DiskOperation } from 'ublk-ts/testing'
import type { Chance } from '../soak/chance.js'

/** Whether some order explains a history of one block: tries all orders. */
export function isExplained(history: readonly DiskOperation[], initial: BlockValue): boolean {
  const answered = history.filter(({ op, outcome = 'ok' }) => op !== 'read' || outcome === 'ok')
  return anyOrder(answered, initial)
}

function anyOrder(left: readonly DiskOperation[], value: BlockValue): boolean {
  if (left.every(isOptional)) return true
  return left.some(next => {
    if (left.some(other => !isOptional(other) && endOf(other) < next.start)) return false
    if (next.op === 'read' && next.values[0] !== value) return false
    const after = 'values' in next ? (next.values[0] as BlockValue) : 0
    const others = left.filter(other => other !== next)
    // One that has no effect and whose time is over is left out.
    return anyOrder(
      others.filter(other => !(isOptional(other) && endOf(other) < next.start)),
      after,
    )
  })
}

function isOptional({ op, outcome = 'ok' }: DiskOperation): boolean {
  return op === 'discard' || outcome !== 'ok'
}

function endOf({ end, outcome = 'ok' }: DiskOperation): number {
  return outcome === 'ok' ? (end ?? Infinity) : Infinity
}

/**
 * A history of one block that may have happened, except that some reads see something else.
 *
 * @param zeroes - Whether there are zeroes, discards and operations that failed, too.
 */
export function randomHistory(
  chance: Chance,
  zeroes: boolean,
): { history: DiskOperation[]; initial: BlockValue } {
  const initial = chance.below(3)
  const count = chance.below(8, 2)
  const spans = Array.from({ length: count }, () => {
    const start = chance.below(12)
    return { start, end: start + chance.below(6), at: 0 }
  })
  for (const span of spans) span.at = span.start + chance.number() * (span.end - span.start)
  spans.sort((a, b) => a.at - b.at)
  let value = initial
  const written = [0, initial]
  const history = spans.map(({ start, end }, index): DiskOperation => {
    const known = { block: 0, start, end }
    if (zeroes && chance.often(0.25)) {
      const op = chance.often(0.5) ? 'zeroes' : 'discard'
      const outcome = chance.often(0.2) ? 'failed' : 'ok'
      if (outcome === 'ok' ? op === 'zeroes' || chance.often(0.5) : chance.often(0.5)) value = 0
      return { ...known, op, blocks: 1, outcome }
    }
    if (chance.often(0.5)) {
      const outcome = zeroes && chance.often(0.2) ? 'unknown' : 'ok'
      const own = 10 + index
      written.push(own)
      if (outcome === 'ok' || chance.often(0.5)) value = own
      return { ...known, op: 'write', values: [own], outcome }
    }
    const saw = chance.often(0.3) ? chance.of(written) : value
    return { ...known, op: 'read', values: [saw] }
  })
  return { history, initial }
}
