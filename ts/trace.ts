import type { Operation } from './operation.js'

/** A request that was answered. */
export interface TraceRecord {
  /** When, in milliseconds since 1970, with fractions. */
  time: number
  /** The number of its queue. */
  queue: number
  /** The number of its place in the queue: no two that are in service at a time have the same. */
  tag: number
  /** What it asked for; `other`: something that the disk never announced. */
  op: Operation | 'other'
  /** Where on the disk, in bytes. */
  offset: number
  /** How much, in bytes; 0 for a flush. */
  length: number
  /** Whether it was a write that had to be durable before it was answered (forced unit access). */
  fua: boolean
  /** Whether it concerned a file system's own structures, not a file's data. */
  meta: boolean
  /** Whether its sender wanted no retries after an error. */
  failFast: boolean
  /** Whether memory was swapped in or out. */
  swap: boolean
  /** Bytes read or written; 0 for anything else. A read may be done in part: the kernel asks for the rest. */
  done: number
  /** The name of the error that it was answered with, such as `EIO`; null if it succeeded. */
  error: string | null
  /** How long it was in service, in microseconds: see {@link LatencyStats}. */
  latency: number
}

/**
 * Takes requests in the order of their queue's answers. `dropped`: how many more there were since it was last called,
 * which are lost, because it was too slow for them.
 */
export type TraceListener = (records: readonly TraceRecord[], dropped: number) => void
