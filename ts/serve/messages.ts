import type { Properties } from './properties.js'

/** What a backend's Worker is given. */
export interface WorkerData {
  /** Of the backend's module. */
  readonly url: string
  /** For its factory. */
  readonly options: unknown
  /** The queue it is to serve. */
  readonly queue: number
  /** Counts how often its thread got round. */
  readonly heart: Int32Array
  /** After how many milliseconds an asynchronous request times out; 0: never. */
  readonly timeout: number
}

/** What the main thread tells it. */
export type ToWorker =
  | { readonly type: 'seat'; readonly seat: number }
  | { readonly type: 'abandon' }
  | { readonly type: 'resize'; readonly size: number }
  | { readonly type: 'close' }

/** What it tells the main thread. */
export type FromWorker =
  | { readonly type: 'loaded'; readonly properties: Properties }
  | { readonly type: 'failed'; readonly message: string }
  | { readonly type: 'ended' }
  | { readonly type: 'resized'; readonly error: string | undefined }
