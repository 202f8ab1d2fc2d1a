/** What travels from the server of the dashboard to its page: the data of events, as JSON. */
import type { HeatPart, LazyProgress } from '../info.js'

/** The numbers of a row, in this order: of one disk, or of all together, in the last second. */
export const FIELDS = [
  /** Requests a second. */
  'reads',
  'writes',
  'others',
  /** Bytes a second. */
  'readBytes',
  'writeBytes',
  /** Microseconds, of reads and writes. */
  'p50',
  'p99',
  /** Requests at the end of it. */
  'inFlight',
  /** A second. */
  'errors',
  'faults',
] as const

/** The name of a number of a row. */
export type Field = (typeof FIELDS)[number]

/** A number for each field. */
export type Row = readonly number[]

/** What a disk is. */
export interface About {
  readonly id: number
  /** Such as `ublkb0`. */
  readonly name: string
  readonly state: string
  /** Bytes. */
  readonly size: number
  readonly readOnly: boolean
  /** The kind of its backend, and what distinguishes it; empty without a record. */
  readonly backend: string
  readonly source: string
  /** Why its counters cannot be read, if so. */
  readonly trouble: string | null
}

/** Rows of some seconds. */
export interface Past {
  /** When each was, in milliseconds since 1970. */
  readonly times: readonly number[]
  /** For each field its numbers; null where there was none. */
  readonly fields: readonly (readonly (number | null)[])[]
}

/** Event `disks`: all that there is. It replaces what was there before. */
export interface Disks {
  readonly version: string
  readonly host: string
  /** Whether the page may change disks. */
  readonly mayChange: boolean
  readonly time: number
  readonly disks: readonly { readonly about: About; readonly row: Row }[]
  readonly total: Row
  readonly past: Past
}

/** Event `tick`: what has changed in the last second. */
export interface Tick {
  readonly time: number
  /** Rows that are not as they were, each after the number of its disk. */
  readonly rows: readonly (readonly [id: number, ...row: number[]])[]
  /** Disks that are new, or not as they were. */
  readonly about: readonly About[]
  /** Disks that are gone. */
  readonly gone: readonly number[]
  readonly total: Row
  /** Why nothing could be read, if so. */
  readonly trouble: string | null
}

/** A backend of a stack. */
export interface StackPart {
  /** How many stand above it. */
  readonly level: number
  readonly kind: string
  readonly label: string
  /** Its files, with the space that they take up. */
  readonly files: readonly FileSize[]
}

/** A file, and its size. */
export interface FileSize {
  readonly path: string
  /** Its length in bytes; null if it cannot be read. */
  readonly size: number | null
  /** The space that it takes up, in bytes. */
  readonly bytes: number | null
}

/** A layer of an overlay. */
export interface Layer {
  readonly path: string | null
  readonly bytes: number
  readonly written: boolean
}

/** A rule for faults. */
export interface FaultLine {
  readonly rule: string
  readonly ofProfile: boolean
  readonly considered: number
  readonly applied: number
}

/** What is known of one disk beside its numbers. */
export interface Detail {
  readonly stack: readonly StackPart[]
  readonly layers: readonly Layer[]
  readonly lazy: LazyProgress | null
  readonly faults: { readonly rules: readonly FaultLine[]; readonly hanging: number } | null
}

/** Event `disk`: one disk. It replaces what was there before. */
export interface Disk {
  readonly id: number
  readonly detail: Detail
  readonly past: Past
}

/** Event `detail`: {@link Detail}, if it is not as it was. Event `heat`: {@link Heat}. */
export type Heat =
  | { readonly part: HeatPart; readonly trouble: null }
  | { readonly part: null; readonly trouble: string }

/** What a page may ask for with POST, if it may change disks. */
export const ACTIONS = ['thaw', 'clear-faults'] as const

/** One of them. */
export type Action = (typeof ACTIONS)[number]
