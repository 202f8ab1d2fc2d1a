/** Types of the rules of a disk with faults. */
import type { Operation } from '../operation.js'
import type { Size } from '../size.js'
import type { ProfileName } from './fault-profiles.js'

/** A time: a number of milliseconds, or text such as `'80us'`, `'5ms'` or `'2s'`. */
export type FaultTime = number | string

/**
 * A time, or a distribution of times: each time `from` one `to` another is equally likely, or they are around a `mean` with
 * a standard `deviation` (normal distribution, within six deviations, never below 0).
 */
export type FaultDelay =
  | FaultTime
  | { readonly from: FaultTime; readonly to: FaultTime }
  | { readonly mean: FaultTime; readonly deviation: FaultTime }

/**
 * An error of the disk. The kernel passes these on to a program that reads or writes the disk with direct I/O. With the page
 * cache, a read fails with EIO, and a write succeeds: its `fsync` fails, with EIO on the disk itself. What becomes of an error
 * on the way through a file system, the file system decides.
 */
export type FaultErrno =
  | 'EIO'
  | 'ENOSPC'
  | 'ETIMEDOUT'
  | 'EOPNOTSUPP'
  | 'ENODATA'
  | 'EILSEQ'
  | 'ENOLINK'
  | 'EREMOTEIO'
  | 'EBADE'
  | 'ENOMEM'
  | 'EBUSY'
  | 'ENODEV'
  | 'ETIME'

/** Which requests a rule considers, and to which of these it is applied. By default, to all that its effect suits. */
interface Conditions<Possible extends Operation> {
  /** Its operation, or one of several. */
  readonly op?: Possible | readonly Possible[] | undefined
  /** Requests with at least one byte of this part of the disk. A flush has no range: it is considered in any case. */
  readonly range?: { readonly offset: Size; readonly length: Size } | undefined
  /** Only those that a file system marks as its own structures, such as inodes and the journal; or only others. No flush is marked. */
  readonly meta?: boolean | undefined
  /** Only those that begin where the one before ended; or only others. Flushes, which have no place, are neither. */
  readonly sequential?: boolean | undefined
  /** This number of requests is left alone first. */
  readonly after?: number | undefined
  /** Only to this one, counted from 1. */
  readonly nth?: number | undefined
  /** Only to every second one, every third, … */
  readonly every?: number | undefined
  /** How likely it is for each, from 0 to 1. The seed determines which ones. */
  readonly probability?: number | undefined
  /** Not more often than this. */
  readonly times?: number | undefined
}

/** What a rule can do; each does one of these. */
interface Effects {
  /** The request fails with this error, and is not done. */
  readonly errno: FaultErrno
  /** When this number of bytes was written, further writes fail with ENOSPC. */
  readonly full: Size
  /** The request is served this much later. */
  readonly delay: FaultDelay
  /** Bytes a second. */
  readonly rate: Size
  /** Requests a second. One that comes alone does not wait. */
  readonly iops: number
  /** The request waits until {@link DiskFaults.thaw}, or until the disk is deleted by force, or its server ends. */
  readonly hang: true
  /** The request is answered, and not done. */
  readonly lose: true
  /** The data is written to a place that is this number of bytes further on; its own place stays as it was. */
  readonly misdirect: Size
  /** Only this number of bytes is written, the first ones, and all of it is answered. */
  readonly tear: Size
  /** One bit is wrong: of what is read, or of what is written. */
  readonly corrupt: true
}

/** A rule with one effect, and what belongs to it. */
type With<Effect extends keyof Effects, Possible extends Operation, More = unknown> = Conditions<Possible> &
  Pick<Effects, Effect> & { readonly [Other in Exclude<keyof Effects, Effect>]?: undefined } & More

/** What belongs to the limit of a rate. */
interface Burst<Amount> {
  /** How much can be saved up while less is asked for: credits. They are there at the beginning. Default: none. */
  readonly burst?: Amount | undefined
}

/** What belongs to a delay. */
interface Turn {
  /** Whether requests are delayed one after the other, as by a single moving head. Default: each by itself. */
  readonly inTurn?: boolean | undefined
}

/**
 * What goes wrong: one effect, and to which requests it happens.
 *
 * @example
 * ```ts
 * const third: FaultRule = { op: 'write', nth: 3, errno: 'EIO' }
 * const journal: FaultRule = { meta: true, op: 'write', lose: true }
 * const slow: FaultRule = { probability: 0.01, delay: { from: '20ms', to: '2s' } }
 * ```
 */
export type FaultRule =
  | With<'errno', Operation>
  | With<'full', 'write' | 'writeZeroes'>
  | With<'delay', Operation, Turn>
  | With<'rate', 'read' | 'write', Burst<Size>>
  | With<'iops', Operation, Burst<number>>
  | With<'hang', Operation>
  | With<'lose', Exclude<Operation, 'read'>>
  | With<'misdirect', 'write'>
  | With<'tear', 'write'>
  | With<'corrupt', 'read' | 'write'>

/** The rules of a disk. */
export interface FaultPlan {
  /** In the order in which they are looked at. At most 32 with those of the profile. */
  rules?: readonly FaultRule[] | undefined
  /** Further rules, which take the time that a device of this kind takes. */
  profile?: ProfileName | undefined
  /** Determines what is drawn: the same seed, rules and requests give the same faults. Default: 0. */
  seed?: number | undefined
}
