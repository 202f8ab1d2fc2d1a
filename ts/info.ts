import type { CopyMode, Transport } from './choice.js'

/**
 * What a device is doing:
 *
 * - `live`: its disk is usable
 * - `stopped`: it has no disk, because it was not started yet, or was stopped, or its server has ended
 * - `quiesced`: its server has ended, and I/O waits for a new one
 * - `fail-io`: its server has ended, and I/O fails until a new one takes over
 * - `stopping`: its disk is being removed: the kernel waits until all its requests are completed
 * - `unknown`: the driver did not answer
 */
export type DeviceState = 'live' | 'stopped' | 'quiesced' | 'fail-io' | 'stopping' | 'unknown'

/**
 * A snapshot of one device, as the kernel reports it. All sizes are in bytes; they and the limits are 0 while it is
 * `stopping`, or if its state is `unknown`.
 */
export interface DeviceInfo {
  /** The number in its paths. */
  id: number
  /** What it is doing. */
  state: DeviceState
  /** The disk, such as `/dev/ublkb0`. It exists while the device is live. */
  path: string
  /** The character device that its server uses, such as `/dev/ublkc0`. */
  charPath: string
  /** The size of the disk. */
  size: number
  /** The logical block size: the smallest I/O. */
  blockSize: number
  /** The physical block size: the smallest efficient I/O. */
  physicalBlockSize: number
  /** Hardware queues. The kernel keeps at most one per CPU. */
  queues: number
  /** The maximum number of requests in flight on each queue. */
  depth: number
  /** The size of the largest request. */
  maxIo: number
  /** Whether the disk refuses writes. */
  readOnly: boolean
  /** Whether written data may be lost until a flush. */
  writeCache: boolean
  /** Whether single writes can bypass that cache (forced unit access). */
  fua: boolean
  /** Whether it announces that seeking is slow. */
  rotational: boolean
  /** The smallest area that a discard frees; 0 if discard is off. */
  discardGranularity: number
  /** The size of the largest discard; 0 if discard is off. */
  maxDiscard: number
  /** The size of the largest write-zeroes request; 0 if it is not supported. */
  maxWriteZeroes: number
  /** No read or write crosses a multiple of this; 0 if any may. */
  chunk: number
  /** Requests of this size, or of a multiple, are the fastest. */
  optimalIo: number
  /** The most contiguous parts of memory in a request; 0 for any number. */
  maxSegments: number
  /** The size of the largest such part; 0 for any size. */
  maxSegmentSize: number
  /** The process that serves it; 0 if none is visible. */
  pid: number
  /** Whether the disk exists and has a server, even one that is not visible, such as in another PID namespace. */
  serverAlive: boolean
  /** Its transport, which never changes. */
  transport: Transport
  /** Its copy mode, which never changes. */
  copy: CopyMode
  /** The driver features in use, such as `CMD_IOCTL_ENCODE`. */
  flags: string[]
  /** The user that owns it. */
  ownerUid: number
  /** The group that owns it. */
  ownerGid: number
}

/** Counters of one kind of request. */
export interface OpCounters {
  /** Requests completed. */
  ops: number
  /** Bytes that they covered. */
  bytes: number
  /** How many of them failed. */
  errors: number
  /** How long they took, including those that failed. */
  latency: LatencyStats
}

/**
 * The service time of requests in microseconds: from the iteration of the queue's loop in which a request arrived to the
 * one in which its answer was sent. Time in the kernel's queues is not included.
 */
export interface LatencyStats {
  /** How many requests there were. */
  count: number
  /** The arithmetic mean. Without requests, this and all following values are 0. */
  mean: number
  /** The median. Percentiles are exact or up to 1/32 too large. */
  p50: number
  /** The 90th percentile. */
  p90: number
  /** The 99th percentile. */
  p99: number
  /** The 99.9th percentile. */
  p999: number
  /** The longest. */
  max: number
  /**
   * The histogram: its buckets that are not empty, in ascending order. Each has its upper bound, and the number of requests
   * that took at most this time, but longer than the bound of the bucket below. All histograms of a process have the same
   * bounds.
   */
  buckets: [bound: number, count: number][]
}

/** Counters of one queue since its server started. Plain data that JSON can represent. */
export interface QueueStats {
  /** The queue's number. */
  queue: number
  read: OpCounters
  write: OpCounters
  flush: OpCounters
  discard: OpCounters
  writeZeroes: OpCounters
  /** Requests taken from the kernel and not answered yet. */
  inFlight: number
  /** Iterations of its loop: calls of io_uring_enter, except those of polling. */
  turns: number
}

/** The counters of all queues of a disk in one, since its server started. Plain data that JSON can represent. */
export interface DiskTotals {
  /** Reads completed, failed ones included, as with all other kinds of request. */
  reads: number
  /** Bytes that they covered. */
  readBytes: number
  writes: number
  writeBytes: number
  flushes: number
  discards: number
  discardBytes: number
  writeZeroes: number
  writeZeroesBytes: number
  /** How many of all these requests failed. */
  errors: number
  /** Requests taken from the kernel and not answered yet. */
  inFlight: number
  /** Iterations of the loops of all queues. */
  turns: number
}

/** How much of a lazy disk is there, and what was done for that. Plain data, as JSON can carry it. */
export interface LazyProgress {
  /** Of the disk, in bytes. */
  size: number
  /** Bytes fetched at a time at least. */
  chunk: number
  /** Bytes that are in the cache. */
  present: number
  /** Bytes of chunks that clients wrote, which stay in the cache; null if the cache has no bound. */
  dirty: number | null
  /** The most bytes of the disk that the cache holds; null if it has no bound. */
  max: number | null
  /** How often the source was asked. */
  fetches: number
  /** Bytes that it gave. */
  fetched: number
  /** How often it failed. */
  failures: number
  /** Bytes that were evicted. */
  evicted: number
  /**
   * The background fill: not wished, under way, waiting after a failure, ended since all is there, or ended since the
   * cache is full.
   */
  filling: 'off' | 'running' | 'waiting' | 'complete' | 'full'
}

/** How it stands with the NBD servers of a disk: one, or those of its parts together. Plain data, as JSON can carry it. */
export interface ServerConnection {
  /** How many servers the disk has. */
  servers: number
  /** With how many of them it is connected, as far as is known: a server that is silent counts as lost after `timeout`. */
  connected: number
  /** How often a connection was lost. */
  lost: number
  /** How often it was made again. */
  reconnects: number
  /** How often writes may have been lost that a server had answered: the next flush has failed, or will. */
  losses: number
  /** Writes that were answered since the last flush. */
  unflushed: number
  /** Bytes that the journal keeps; 0 without one. */
  journalBytes: number
  /** Writes that it keeps. */
  journalWrites: number
  /** The most bytes that it can; 0 without one. */
  journalMax: number
}

/** A snapshot of a disk in an object store. Plain data, as JSON can carry it. */
export interface VolumeSnapshot {
  /** Its name. */
  name: string
  /** When it was made, in milliseconds since 1970. */
  made: number
  /** The size that the disk had, in bytes. */
  size: number
}

/** How it stands with the volume of a disk in an object store. Plain data, as JSON can carry it. */
export interface StoredVolume {
  /** Whether it works: not if somebody else has opened the volume. */
  serving: boolean
  /** Bytes that are not in the store yet. */
  behind: number
  /** For how many seconds the oldest of them have waited. */
  behindSeconds: number
  /** Bytes that clients have written. */
  written: number
  /** Bytes that were sent to the store. */
  sent: number
  /** Bytes that came from it. */
  received: number
  /** Requests that created an object. */
  puts: number
  /** Requests that read one. */
  gets: number
  /** Requests for a page of a list. */
  lists: number
  /** Requests that deleted objects. */
  deletes: number
  /** Requests that failed, and were made again. */
  failures: number
  /** Bytes of the segments in the store. */
  stored: number
  /** Those of them that are the disk's; the others are given back in time. */
  live: number
  /** Bytes in the cache of what was read. */
  cached: number
}

/** A part of a disk, in bytes. */
export interface DiskRange {
  readonly offset: number
  readonly length: number
}

/**
 * Where a disk was read and written in some time, and what of it is where. A disk has at most 4096 cells of equal size. Plain data,
 * as JSON can carry it.
 */
export interface HeatPart {
  /** Of the disk, in bytes. */
  readonly size: number
  /** Of a cell, in bytes; the last one may be smaller. */
  readonly cell: number
  /**
   * Four numbers for each cell to which something was done: its number, bytes that reads asked for, bytes that were to be
   * written, and requests to which rules for faults were applied.
   */
  readonly counts: readonly number[]
  /** Requests that are not counted, since there were too many. */
  readonly lost: number
  /**
   * A byte in base64 for each cell: how much of it is in a lazy disk's cache, 0 none and 255 all. Of a large cell about 64 places are
   * looked at. Null of another disk; absent if it is as it was told before.
   */
  readonly present?: string | null
  /** The same: how much clients wrote, of a bounded cache. */
  readonly dirty?: string | null
  /** The same: how much was written over an overlay's base. */
  readonly layered?: string | null
}

/** A named instant in the life of a disk that records its changes. Plain data, as JSON can carry it. */
export interface Checkpoint {
  name: string
  /** When it was made, in milliseconds since 1970. */
  made: number
  /**
   * Whether it is known what was changed since. Otherwise everything counts as changed: the disk's server did not end in an
   * orderly way, or the disk's file was changed while it was not served.
   */
  known: boolean
}

/** What was changed on a disk since a checkpoint. Plain data, as JSON can carry it. */
export interface ChangedRanges {
  /** The checkpoint. */
  since: string
  /** Of the disk, in bytes. */
  size: number
  /** As {@link Checkpoint.known}: if false, the one range is the whole disk. */
  known: boolean
  /** How many bytes the ranges cover. */
  bytes: number
  /** In order; whole blocks of 4 KiB, except at the end of the disk. */
  ranges: DiskRange[]
}

/** A part of {@link ChangedRanges}, as it goes from a server to its client. */
export interface ChangedPart {
  size: number
  known: boolean
  /** Offset and length of each range. */
  ranges: number[]
  /** From where on there may be more. */
  next: number | null
}

/** A layer of an overlay: what was written to it between two snapshots. */
export interface DiskLayer {
  /** Its file; null for one in memory. */
  path: string | null
  /** How many bytes the file takes up. */
  bytes: number
  /** Whether it is the upper, which is written: the others are snapshots, and stay as they are. */
  written: boolean
}

/** A side of a {@link mirror}. Plain data, as JSON can carry it. */
export interface MirrorSide {
  /** Its files, or what else it is. */
  name: string
  /** `current`: it has all of the disk; `filling`: it is getting what it lacks; `failed`: it is not used. */
  state: 'current' | 'filling' | 'failed'
  /** How much it may lack, in bytes. */
  missing: number
}

/**
 * How far a {@link UblkDevice.flatten | flatten}, a {@link UblkDevice.commit | commit} or a {@link UblkDevice.move | move} has
 * come. Plain data, as JSON can carry it.
 */
export interface FlattenProgress {
  /** How much of the disk the upper, the base, or the other disk has, in bytes. */
  done: number
  /** Of the disk, in bytes. */
  size: number
}
