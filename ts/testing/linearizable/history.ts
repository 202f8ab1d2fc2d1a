import { invalid, wrongType } from '../../errors.js'
import { nameOf } from '../../user-values.js'
import { type Conflict, conflictOfUnique, isUnique } from './clusters.js'
import { conflictOfSearch } from './search.js'
import { explain } from './words.js'

/**
 * What a block holds: a number that names the write that put it there, each write its own, or 0 for zeroes. Text is anything else
 * that was found there, in words; nobody writes it, so a read that saw it is wrong.
 */
export type BlockValue = number | string

/** What is known of any operation. */
interface Known {
  /** The number of the first block. */
  readonly block: number
  /** When it was begun, in milliseconds of a monotonic clock that all clients share. */
  readonly start: number
  /** When it was answered; missing if it never was. Operations of which neither ended before the other began are concurrent. */
  readonly end?: number | undefined
  /**
   * `ok`: it was answered without an error. `failed`, `unknown` (such as after a timeout): what it changes may be there or not, in
   * each block by itself, and may come at any time from its start on; a read proves nothing. Default: `ok`.
   */
  readonly outcome?: 'ok' | 'failed' | 'unknown' | undefined
  /** Who did it, for explanations, such as `'client 3'`. */
  readonly by?: string | undefined
}

/** An operation on a disk: what a client asked for, and when it was answered. */
export type DiskOperation =
  | (Known & {
      readonly op: 'read' | 'write'
      /** What it read or wrote, a value for each block. */
      readonly values: readonly BlockValue[]
    })
  | (Known & {
      /** `zeroes`: the blocks hold 0 afterwards. `discard`: each holds 0 or what it held, since the kernel promises neither. */
      readonly op: 'zeroes' | 'discard'
      /** The number of blocks. */
      readonly blocks: number
    })

/** An operation on one block. */
export interface Access {
  readonly operation: DiskOperation
  readonly isRead: boolean
  readonly value: BlockValue
  readonly start: number
  /** Infinite if it may still take effect. */
  readonly end: number
  /** Whether it may have no effect at all. */
  readonly optional: boolean
}

/** What a disk must not do: see {@link checkHistory}. */
export interface Violation {
  /** The number of the block. */
  readonly block: number
  /** What the read saw there. */
  readonly saw: BlockValue
  /** The read that is wrong: of all, the one that was answered first. */
  readonly read: DiskOperation
  /**
   * `stale`: what it saw had been replaced. `future`: it was written only later. `unwritten`: nobody wrote it to this block.
   * `disorder`: no order of the operations explains it.
   */
  readonly kind: 'stale' | 'future' | 'unwritten' | 'disorder'
  /** Operations that show it, as few as possible, in the order in which they began. */
  readonly operations: readonly DiskOperation[]
  /** Why it is wrong: a line, and one for each of `operations`. */
  readonly explanation: string
}

/**
 * Checks that a history of concurrent operations could have come from a disk: that each block is a register. There is an order of
 * all operations on the block in which each lies between its start and its end, and in which each read sees what the operation
 * before it left. This is *linearizability*.
 *
 * Each block is looked at by itself: a read of several blocks may see one write in the first and an older one in the second. Linux
 * promises no more: it splits and merges requests, does not order them, and names as the unit that is written atomically the
 * logical or physical block (`Documentation/ABI/stable/sysfs-block`).
 *
 * If each value was written to a block once, this takes n log n steps. Zeroes are all the same: a block with zeroes of which
 * reads saw some is searched for an order, which takes longer the more operations are concurrent.
 *
 * @param initial - What a block holds before the first operation. Default: zeroes.
 * @returns The first violation; undefined if there is none.
 * @throws UblkError of kind `invalid` for a history that makes no sense, `limit` if so many operations are concurrent that no
 * answer was found.
 *
 * @example
 * ```ts
 * const violation = checkHistory([
 *   { op: 'write', block: 5, values: [1], start: 0, end: 1 },
 *   { op: 'write', block: 5, values: [2], start: 2, end: 3 },
 *   { op: 'read', block: 5, values: [1], start: 4, end: 5 },
 * ])
 * console.log(violation?.explanation)
 * // block 5: a read saw 1, although 2 had replaced it; no read has seen 2
 * //   0.000 to 1.000 ms: write of 1 to block 5
 * //   2.000 to 3.000 ms: write of 2 to block 5; begun when 1 was there
 * //   4.000 to 5.000 ms: read of block 5, saw 1; begun when 2 was there
 * ```
 */
export function checkHistory(
  history: readonly DiskOperation[],
  initial: (block: number) => BlockValue = () => 0,
): Violation | undefined {
  if (!Array.isArray(history)) {
    throw wrongType(`checkHistory() takes a list of operations, not ${nameOf(history)}`)
  }
  if (typeof initial !== 'function') throw wrongType(`initial must be a function, not ${nameOf(initial)}`)
  let first: { block: number; accesses: readonly Access[]; conflict: Conflict } | undefined
  for (const [block, all] of blocksOf(history)) {
    const accesses = withEffect(all)
    const conflict = conflictOf(block, accesses, initial(block))
    if (conflict && !(first && first.conflict.read.end <= conflict.read.end)) {
      first = { block, accesses, conflict }
    }
  }
  return first && explain(first.block, first.accesses, first.conflict, history)
}

/** Without what need not have had an effect, if nobody saw one. */
function withEffect(accesses: readonly Access[]): readonly Access[] {
  const seen = new Set(accesses.filter(({ isRead }) => isRead).map(({ value }) => value))
  return accesses.filter(({ optional, value }) => !optional || seen.has(value))
}

function conflictOf(block: number, accesses: readonly Access[], initial: BlockValue): Conflict | undefined {
  return isUnique(accesses, initial)
    ? conflictOfUnique(accesses, initial)
    : conflictOfSearch(block, accesses, initial)
}

/** What happened to each block. */
function blocksOf(history: readonly DiskOperation[]): Map<number, Access[]> {
  const blocks = new Map<number, Access[]>()
  history.forEach((operation, index) => {
    check(operation, index)
    const isRead = operation.op === 'read'
    const isDone = (operation.outcome ?? 'ok') === 'ok'
    if (isRead && !isDone) return
    const { block, start } = operation
    const values = 'values' in operation ? operation.values : new Array<number>(operation.blocks).fill(0)
    values.forEach((value, at) => {
      const accesses = blocks.get(block + at)
      const end = isDone ? (operation.end ?? Infinity) : Infinity
      const optional = !isRead && (!isDone || operation.op === 'discard')
      const access = { operation, isRead, value, start, end, optional }
      if (accesses) accesses.push(access)
      else blocks.set(block + at, [access])
    })
  })
  return blocks
}

function check(operation: DiskOperation, index: number): void {
  const { op, block, start, end, outcome = 'ok' } = operation
  const refuse = (why: string): never => {
    throw invalid(`operation ${index} of the history ${why}`)
  }
  if (!['read', 'write', 'zeroes', 'discard'].includes(op)) refuse(`has no op: ${nameOf(op)}`)
  if (!['ok', 'failed', 'unknown'].includes(outcome)) refuse(`has no outcome: ${nameOf(outcome)}`)
  if (!Number.isInteger(block) || block < 0) refuse(`has no block: ${nameOf(block)}`)
  const hasRange = 'values' in operation ? Array.isArray(operation.values) : operation.blocks > 0
  if (!hasRange) refuse('has no blocks')
  if (!Number.isFinite(start)) refuse(`has no start: ${nameOf(start)}`)
  if (outcome === 'ok' && (end === undefined || !(end >= start))) {
    refuse(`was answered, so it ends after its start, and not at ${nameOf(end)}`)
  }
}
