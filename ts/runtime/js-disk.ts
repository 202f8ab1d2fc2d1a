import { EIO, inOneLine } from '../user-values.js'
import type { QueueMemory } from './queue-memory.js'

/** Finishes a request that was not finished in its turn. */
export type Finish = (tag: number, generation: number, result: number) => void

/** Takes one line about something that went wrong; the disk goes on. */
export type Report = (message: string) => void

/** A backend of either form, made to serve the batches that a queue's memory describes. */
export interface JsDisk {
  /**
   * Serves the first `count` requests of the batch. Returns how many of them go on, which is 0 for a
   * synchronous backend. The results of the others are in the queue's memory.
   */
  serve(count: number): number
  /** By position, whether the request goes on; only meaningful if any does. */
  readonly goesOn: Uint8Array
  /** Where those are finished that went on. It is never called before `serve` has returned. */
  finish: Finish
  /** The tag's request was answered for it: whatever its method does from now on must touch nothing. */
  abandon(tag: number): void
}

/**
 * Serves a batch, and never throws. The disk turns a failure of its backend into the request's error. If the disk
 * itself throws, which is a bug of this package, all requests of the batch get EIO, and methods that are still running
 * keep their buffers to themselves.
 */
export function serveSafely(disk: JsDisk, memory: QueueMemory, count: number, report: Report): number {
  try {
    return disk.serve(count)
  } catch (error) {
    report(`${count} requests could not be served, which is a mistake of ublk-ts: ${inOneLine(error)}`)
    for (let i = 0; i < count; i++) disk.abandon(memory.tag[i] as number)
    memory.result.fill(-EIO, 0, count)
    disk.goesOn.fill(0, 0, count)
    return 0
  }
}
