import type { Properties } from './backend-properties.js'

/** Serves a device's queues in JavaScript. */
export interface JsServer {
  /** What its backend can do, and its present size. */
  readonly properties: Properties
  /** Gets ready to serve that many queues. */
  prepare(queues: number): Promise<void>
  /** Takes the pending queues, by their numbers, and serves them from then on. */
  serve(queues: readonly number[], traits: DiskTraits): void
  /**
   * Has the backend change its size.
   *
   * @throws UblkError of kind `unsupported` if it has no `resize`, `backend` if that fails.
   */
  resize(size: number): Promise<void>
  /** Fails the requests in flight: their device is deleted by force, and they make no progress. */
  abandon(): void
  /** Ends the server; nothing of it remains. It never rejects. */
  close(): Promise<void>
}

/** What a server needs to know about its disk. */
export interface DiskTraits {
  /** Of the disk. */
  readonly path: string
  /** The kernel sends no flushes, though the backend needs them: every write has to be durable when it completes. */
  readonly durable: boolean
}
