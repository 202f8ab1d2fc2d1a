import type { CopyMode, Transport } from './choice.js'

/**
 * What a device is doing:
 *
 * - `live`: its disk is usable
 * - `stopped`: it has no disk, because it was not started yet, or was stopped, or its server is gone
 * - `quiesced`: its server is gone, I/O waits for another
 * - `fail-io`: its server is gone, I/O fails until another comes
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
  /** The server's side of it, such as `/dev/ublkc0`. */
  charPath: string
  /** Of the disk. */
  size: number
  /** Of the smallest I/O (the logical block). */
  blockSize: number
  /** Of the smallest efficient I/O (the physical block). */
  physicalBlockSize: number
  /** Hardware queues. The kernel keeps at most one per CPU. */
  queues: number
  /** Requests each queue holds at a time. */
  depth: number
  /** Of the largest request. */
  maxIo: number
  /** Whether the disk refuses writes. */
  readOnly: boolean
  /** Whether written data may be lost until a flush. */
  writeCache: boolean
  /** Whether single writes can be forced through that cache. */
  fua: boolean
  /** Whether it says that seeking is slow. */
  rotational: boolean
  /** Of the smallest area a discard frees; 0 if discard is off. */
  discardGranularity: number
  /** Of the largest discard; 0 if discard is off. */
  maxDiscard: number
  /** Of the largest write-zeroes request; 0 if there is none. */
  maxWriteZeroes: number
  /** The process that serves it; 0 if none is visible. */
  pid: number
  /** Whether the disk exists and has a server, even one that is not visible, such as in another PID namespace. */
  serverAlive: boolean
  /** How its requests travel: what it was made for stays. */
  transport: Transport
  /** How their data travels, likewise. */
  copy: CopyMode
  /** The driver features in use, such as `CMD_IOCTL_ENCODE`. */
  flags: string[]
  /** The user who owns it. */
  ownerUid: number
  /** The group that owns it. */
  ownerGid: number
}

/** Counters of one kind of request. */
export interface OpCounters {
  /** Requests completed. */
  ops: number
  /** Bytes they covered. */
  bytes: number
  /** How many of them failed. */
  errors: number
  /** How long they took, those that failed too. */
  latency: LatencyStats
}

/**
 * How long requests were in service, in microseconds: from the turn of the queue's loop in which a request came to the
 * one in which its answer went out. What it waited in the kernel is not in it.
 */
export interface LatencyStats {
  /** How many requests there were. */
  count: number
  /** The arithmetic mean; 0 without requests, as the rest. */
  mean: number
  /** What half of them did not exceed. Percentiles are exact or up to a 32nd too large. */
  p50: number
  /** What 90% of them did not exceed. */
  p90: number
  /** What 99% of them did not exceed. */
  p99: number
  /** What 99.9% of them did not exceed. */
  p999: number
  /** The longest. */
  max: number
  /**
   * The histogram: buckets with requests in them, by time. Each has the longest time that belongs to it, and how many
   * requests took so long, but longer than what belongs to the one before. All histograms of a process have the same
   * bounds.
   */
  buckets: [bound: number, count: number][]
}

/** Counters of one queue since the device was made. Plain data, as JSON can carry it. */
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
  /** Turns of its loop: calls of io_uring_enter, but for those of polling. */
  turns: number
}
