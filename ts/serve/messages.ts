import type { MessagePort } from 'node:worker_threads'
import type { Properties } from './properties.js'

/** What a backend's Worker is given. */
export interface WorkerData {
  /** Of the backend's module. */
  readonly url: string
  /** For its factory. */
  readonly options: unknown
  /** The queue it is to serve. */
  readonly queue: number
  /** Where it and the main thread send their messages: `parentPort` is the backend's. Taken out before that is loaded. */
  port: MessagePort | undefined
  /** What the main thread sees of its thread, by {@link Heart}. */
  readonly heart: Int32Array
  /** After how many milliseconds an asynchronous request times out; 0: never. */
  readonly timeout: number
}

/** The numbers in a worker's `heart`. */
export const Heart: Readonly<{ beats: 0; watched: 1; length: 2 }> = {
  /** How often its thread took requests, or looked at its messages. */
  beats: 0,
  /** Whether the main thread watches it: not while it is idle. */
  watched: 1,
  length: 2,
}

/** What the main thread tells it. */
export type ToWorker =
  | { readonly type: 'seat'; readonly seat: number; readonly durable: boolean }
  /** Nothing: that it looks at its messages is what counts. */
  | { readonly type: 'look' }
  | { readonly type: 'abandon' }
  | { readonly type: 'resize'; readonly size: number }
  | { readonly type: 'close' }

/** What it tells the main thread. */
export type FromWorker =
  | { readonly type: 'loaded'; readonly properties: Properties }
  | { readonly type: 'failed'; readonly message: string; readonly invalid: boolean; readonly hint: string }
  /** It has requests and is not watched. */
  | { readonly type: 'busy' }
  /** Something went wrong that concerns no request. */
  | { readonly type: 'trouble'; readonly message: string }
  | { readonly type: 'ended' }
  | { readonly type: 'resized'; readonly error: string | undefined }
