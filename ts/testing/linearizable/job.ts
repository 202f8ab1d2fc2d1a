import type { UblkErrorKind } from '../../errors.js'
import type { DiskOperation, Violation } from './history.js'

/** The blocks of a check. */
export interface Area {
  /** The disk, such as `/dev/ublkb0`. */
  readonly path: string
  /** Where the blocks begin, in bytes. */
  readonly offset: number
  /** In bytes. */
  readonly blockSize: number
  /** How many there are. */
  readonly blocks: number
}

/** What a check's process is to do. */
export interface Job extends Area {
  readonly seed: number
  readonly writers: number
  /** How many operations all writers do at most, and for how many milliseconds. */
  readonly operations: number
  readonly milliseconds: number
  /** Whether the disk accepts discards. */
  readonly discards: boolean
}

/** What it has seen. */
export interface Seen {
  /** How many operations of each kind were answered without an error. */
  readonly done: { readonly [op in DiskOperation['op']]: number }
  /** How many failed. */
  readonly failed: number
  /** How many reads and writes had a block in common with a write that was in flight at the same time. */
  readonly concurrent: number
  readonly violation: Violation | undefined
}

/** What it says. */
export type FromProgram =
  | { readonly type: 'progress' | 'checking' }
  | { readonly type: 'seen'; readonly seen: Seen }
  | {
      readonly type: 'failed'
      readonly kind: UblkErrorKind
      readonly message: string
      readonly hint: string | undefined
    }

/** What a writer, a thread of the process, gets. */
export interface WriterData extends Area {
  readonly salt: number
  readonly seed: number
  /** Its number, from 0, and how many there are. */
  readonly writer: number
  readonly writers: number
  /** How many operations it does at most, and for how many milliseconds. */
  readonly operations: number
  readonly milliseconds: number
  /** {@link DONE} and {@link BEGIN}. */
  readonly shared: Int32Array
}

/** In the memory that all writers share: how many operations they have done. */
export const DONE = 0
/** In the same memory: 0, and then {@link GO} or {@link STOP}, when all writers are there. */
export const BEGIN = 1
/** The writers work. */
export const GO = 1
/** They do not. */
export const STOP = 2

/** What a writer has done. */
export interface Written {
  /** With times of the clock. */
  readonly history: readonly DiskOperation[]
  readonly failed: number
  /** The first failure. */
  readonly error: string | undefined
}

/** What a writer says: first that it is there, then what it has done. */
export type FromWriter = 'ready' | Written

/** The number of the write with which a check begins; the numbers of the writers' follow. */
export const FIRST_WRITE = 1
