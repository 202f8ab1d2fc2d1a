import type { MessagePort } from 'node:worker_threads'
import type { Properties } from './backend-properties.js'

/** What a backend's Worker is given. */
export interface WorkerData {
  /** Of the backend's module. */
  readonly url: string
  /** For its factory. */
  readonly options: unknown
  /** The queue it is to serve. */
  readonly queue: number
  /**
   * The port for messages to and from the main thread; `parentPort` belongs to the backend. Removed before the backend
   * is loaded.
   */
  port: MessagePort | undefined
  /** Counters of the thread that the main thread reads; see {@link Heartbeat}. */
  readonly heartbeat: Int32Array
  /** After how many milliseconds an asynchronous request times out; 0: never. */
  readonly timeout: number
}

/** The numbers in a worker's `heartbeat`. */
export const Heartbeat: Readonly<{ beats: 0; watched: 1; length: 2 }> = {
  /** How often its thread took requests or handled messages. */
  beats: 0,
  /** Whether the main thread is watching it: not while it is idle. */
  watched: 1,
  length: 2,
}

/** What the main thread tells it. */
export type ToWorker =
  | { readonly type: 'serve'; readonly queue: number; readonly durable: boolean }
  /** Has no effect; handling the message shows that the thread runs. */
  | { readonly type: 'look' }
  | { readonly type: 'abandon' }
  | { readonly type: 'resize'; readonly size: number }
  | { readonly type: 'close' }

/** What it tells the main thread. */
export type FromWorker =
  | { readonly type: 'loaded'; readonly properties: Properties }
  | { readonly type: 'failed'; readonly message: string; readonly invalid: boolean; readonly hint: string }
  /** It has requests, and the main thread is not watching. */
  | { readonly type: 'busy' }
  /** An error that belongs to no request. */
  | { readonly type: 'trouble'; readonly message: string }
  | { readonly type: 'ended' }
  | { readonly type: 'resized'; readonly error: string | undefined }
