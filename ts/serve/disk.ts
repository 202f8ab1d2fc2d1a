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
