import type { Conflict } from './clusters.js'
import type { Access, BlockValue, DiskOperation, Violation } from './history.js'

/** More operations than this are not listed. */
const MOST = 12

/** Describes what is wrong with a block. */
export function explain(
  block: number,
  accesses: readonly Access[],
  conflict: Conflict,
  history: readonly DiskOperation[],
): Violation {
  const { read, kind } = conflict
  const { why, shown, notes } = reasonFor(block, accesses, conflict, history)
  const sorted = [...new Set([...shown, read])].sort((a, b) => a.start - b.start || a.end - b.end)
  const some =
    sorted.length > MOST ? sorted.filter(access => access === read || latest(sorted, access)) : sorted
  const lines = some.map(access => {
    const note = notes?.get(access)
    return `  ${lineOf(access, block)}${note === undefined ? '' : `; ${note}`}`
  })
  return {
    block,
    saw: read.value,
    read: read.operation,
    kind,
    operations: some.map(({ operation }) => operation),
    explanation: [`block ${block}: a read saw ${textOf(read.value)}${why}`, ...lines].join('\n'),
  }
}

function latest(sorted: readonly Access[], access: Access): boolean {
  return sorted.indexOf(access) >= sorted.length - MOST
}

interface Reason {
  readonly why: string
  readonly shown: readonly Access[]
  readonly notes?: ReadonlyMap<Access, string>
}

function reasonFor(
  block: number,
  accesses: readonly Access[],
  conflict: Conflict,
  history: readonly DiskOperation[],
): Reason {
  const { read, kind, newer, part = [] } = conflict
  const { value } = read
  switch (kind) {
    case 'stale':
      return stale(accesses, read, newer as BlockValue)
    case 'future':
      return {
        why: ', which was written only later',
        shown: accesses.filter(access => !access.isRead && access.value === value).slice(0, 1),
      }
    case 'unwritten':
      return {
        why: typeof value === 'string' ? '' : whence(block, value, history),
        shown: accesses.filter(
          ({ isRead, start, end }) => !isRead && start <= read.end && end >= read.start && end !== Infinity,
        ),
      }
    case 'disorder':
      return { why: ', and no order of these operations explains it', shown: part }
  }
}

function whence(block: number, value: number, history: readonly DiskOperation[]): string {
  const write = history.find(each => each.op === 'write' && each.values.includes(value))
  if (!write || !('values' in write)) return ', which nobody wrote'
  return `, which was written to ${rangeOf(write.block, write.values.length)}, and not to block ${block}`
}

/** The value of the read, something newer that began when it was there, and the read, which began when the newer one was there. */
function stale(accesses: readonly Access[], read: Access, newer: BlockValue): Reason {
  const own = accesses.filter(({ value }) => value === read.value)
  const other = accesses.filter(({ value }) => value === newer)
  const isInitial = own.every(({ isRead }) => isRead) // It has been there from the beginning.
  const since = isInitial ? -Infinity : own.reduce((least, { end }) => Math.min(least, end), Infinity)
  const begun = best(
    other,
    ({ start }) => start > since,
    ({ start }) => start,
  )
  const proof = best(
    isInitial ? [] : own,
    ({ end }) => begun !== undefined && end < begun.start,
    ({ end }) => end,
  )
  const replaced = best(
    other,
    ({ end }) => end < read.start,
    ({ end }) => end,
  )
  // What need not have had an effect has had one if a read saw it.
  const sight = best(
    other.filter(({ isRead }) => isRead),
    () => other.some(({ optional }) => optional),
    ({ end }) => end,
  )
  const notes = new Map<Access, string>([[read, `begun when ${there(newer)}`]])
  if (begun && !isInitial) notes.set(begun, `begun when ${there(read.value)}`)
  const isSeen = other.some(({ isRead }) => isRead)
  return {
    why: `, although ${textOf(newer)} had replaced it${isSeen ? '' : `; no read has seen ${textOf(newer)}`}`,
    shown: [proof, begun, replaced, sight].filter(access => access !== undefined),
    notes,
  }
}

/** Of those that suit: the write, or else the one with the least number. */
function best(
  accesses: readonly Access[],
  suits: (access: Access) => boolean,
  numberOf: (access: Access) => number,
): Access | undefined {
  const suitable = accesses.filter(suits)
  const write = suitable.find(({ isRead }) => !isRead)
  return write ?? suitable.sort((a, b) => numberOf(a) - numberOf(b))[0]
}

function lineOf({ operation, value, isRead }: Access, block: number): string {
  const { op, start, end, outcome = 'ok', by } = operation
  const count = 'values' in operation ? operation.values.length : operation.blocks
  const range = rangeOf(operation.block, count)
  const what = {
    read: `read of ${range}`,
    write: `write of ${textOf(value)} to ${range}`,
    zeroes: `zeroes to ${range}`,
    discard: `discard of ${range}`,
  }[op]
  const times = `${start.toFixed(3)} to ${end === undefined ? '?' : end.toFixed(3)} ms`
  const text = typeof value === 'string' ? 'that' : textOf(value) // The first line has it.
  const saw = isRead ? `, saw ${text}${count > 1 ? ` in block ${block}` : ''}` : ''
  const ending = { ok: '', failed: ', which failed', unknown: ', which was never answered' }[outcome]
  return `${times}: ${what}${by === undefined ? '' : ` by ${by}`}${saw}${ending}`
}

function rangeOf(block: number, count: number): string {
  return count === 1 ? `block ${block}` : `blocks ${block} to ${block + count - 1}`
}

function there(value: BlockValue): string {
  return `${textOf(value)} ${value === 0 ? 'were' : 'was'} there`
}

function textOf(value: BlockValue): string {
  return value === 0 ? 'zeroes' : String(value)
}
