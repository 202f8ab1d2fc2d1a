import type { Operation } from './operation.js'

/** A request that was answered. */
export interface TraceRecord {
  /** When it was answered, in milliseconds since 1970, with fractions. */
  time: number
  /** The number of its queue. */
  queue: number
  /** Its tag: requests that are in flight on a queue at the same time have different tags. */
  tag: number
  /** Its operation; `other`: one that the disk never announced. */
  op: Operation | 'other'
  /** Its offset on the disk, in bytes. */
  offset: number
  /** Its length in bytes; 0 for a flush. */
  length: number
  /** Whether it was a write that must be durable before it is answered (forced unit access). */
  fua: boolean
  /** Whether it concerned a file system's own structures, not the data of a file. */
  meta: boolean
  /** Whether its sender wanted no retries after an error. */
  failFast: boolean
  /** Whether memory was swapped in or out. */
  swap: boolean
  /** Bytes read or written; 0 for anything else. A read may be done in part: the kernel asks for the rest. */
  done: number
  /** The name of the error that it was answered with, such as `EIO`; null if it succeeded. */
  error: string | null
  /** Of a disk with {@link faults}: which rules were applied to it, by their places in the list, from 0. Otherwise empty. */
  faults: number[]
  /** Its service time in microseconds: see {@link LatencyStats}. */
  latency: number
}

/**
 * Gets requests in the order in which their queue answered them. `dropped`: how many further requests are missing since
 * the last call, because the listener was too slow.
 */
export type TraceListener = (records: readonly TraceRecord[], dropped: number) => void
