/** What a write had been promised when the power failed: see `Standing` of the native part. */
export type Standing = 'flushed' | 'forced' | 'volatile' | 'in-flight'

/** A write, discard, write-zeroes, flush or mark, or some of them that are not named. What a kind does not have is not there. */
export interface Entry {
  kind: 'write' | 'discard' | 'write-zeroes' | 'flush' | 'mark' | 'left-out'
  /** The moment of its start. */
  start: number
  /** Of a write: the moment of its answer, if that is before the cut. */
  done?: number
  /** The number of a write in the log. */
  number?: number
  /** Where a write begins, in bytes. */
  offset?: number
  /** Its length, in bytes. */
  length?: number
  fua?: boolean
  /** A file system wrote structures of its own. */
  meta?: boolean
  standing?: Standing
  /** How many bytes of a write are lost. */
  lost?: number
  /** A flush was answered before the cut. */
  answered?: boolean
  /** Of a mark. */
  name?: string
  /** How many writes are not named, and their length together, in bytes. */
  writes?: number
  bytes?: number
  /** Of how many of them something is lost. */
  lossy?: number
  flushes?: number
  marks?: number
}

/** A write, discard or write-zeroes. */
export interface Written extends Entry {
  number: number
  offset: number
  length: number
  standing: Standing
  lost: number
}

/** Writes with the same fate. */
export interface Sum {
  standing: Standing
  loss: 'none' | 'part' | 'whole'
  writes: number
  bytes: number
}

/** A part of a disk, in bytes. */
export interface Cell {
  number: number
  writes: number
  written: number
  /** How much of that was not durable. */
  open: number
  /** How much is not as it was written. */
  lost: number
}

/** What happened to a disk until its power failed, and what became of it, as the native part tells it. */
export interface Account {
  model: string
  /** The size of the disk, and what it never tears, in bytes. */
  size: number
  unit: number
  /** The moment of the cut. */
  cut: number
  /** The moment when the last flush came that was answered. */
  since?: number
  entries: readonly Entry[]
  sums: readonly Sum[]
  flushes: number
  marks: number
  heat: { start: number; cell: number; cells: number; touched: readonly Cell[] }
}

/** A part of a write that a state lacks. */
export interface LostPart {
  write: number
  offset: number
  length: number
  op: string
  meta: boolean
  how: 'missing' | 'garbage' | 'moved' | 'flipped'
  to?: number
}

/** What a report is about. */
export interface Subject {
  title: string
  /** The id of the state. */
  id: string
  /** The marks that were set. */
  marks: readonly string[]
  /** What the state lacks. */
  lost: readonly LostPart[]
  account: Account
  /** The state with the fewest losses that fails still, if one was looked for. */
  shrunk?: { id: string; lost: readonly LostPart[] }
}

/** Whether an entry is a write, discard or write-zeroes. */
export function isWritten(entry: Entry): entry is Written {
  return entry.number !== undefined && entry.number !== null
}

/** What became of a write. */
export type Fate = 'durable' | 'kept' | 'part' | 'lost'

/** What became of a write. */
export function fateOf({ standing, lost, length }: Written): Fate {
  if (lost > 0) return lost < length ? 'part' : 'lost'
  return standing === 'flushed' || standing === 'forced' ? 'durable' : 'kept'
}
