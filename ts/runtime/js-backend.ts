import { checkFunction } from '../check.js'
import type { Operation } from '../operation.js'
import type { Size } from '../size.js'
import {
  FLAG_FAIL_FAST,
  FLAG_FUA,
  FLAG_META,
  FLAG_NO_UNMAP,
  FLAG_SWAP,
  OP_DISCARD,
  OP_FLUSH,
  OP_READ,
  OP_WRITE,
  OP_WRITE_ZEROES,
} from '../wire.js'
import type { RequestFlags } from './requests.js'

/**
 * One request of the kernel. The object belongs to the engine, which uses it again: it is good until the
 * request is finished, that is until the method returned or its promise is settled.
 */
export interface DiskRequest extends RequestFlags {
  /** What is asked for. */
  readonly op: Operation
  /** Where on the disk, in bytes. */
  readonly offset: number
  /** How much, in bytes; 0 for a flush. */
  readonly length: number
}

/**
 * A disk written in JavaScript, a method per operation. Methods are synchronous or return a promise; a
 * disk can do what it has methods for, and nothing else is ever asked of it. What a method throws becomes
 * the request's error: the `errno` or `code` of a Node error or a UblkError, else EIO.
 */
export interface DiskBackend {
  /** Bytes, or text such as `'1G'`; a multiple of the block size. */
  readonly size: Size
  /**
   * The smallest unit it reads or writes: 512, 1024, 2048 or 4096 bytes.
   *
   * @defaultValue 512
   */
  readonly blockSize?: number
  /**
   * Fills `into` with the disk's bytes from `request.offset` on. `into` is as long as the request, and
   * good until the request is finished.
   */
  read(request: DiskRequest, into: Uint8Array): void | Promise<void>
  /** Puts `from` on the disk. Without this method the disk is read-only. */
  write?(request: DiskRequest, from: Uint8Array): void | Promise<void>
  /**
   * Makes every write that was finished before durable. Without this method the disk has no volatile
   * write cache: a finished write is durable.
   */
  flush?(request: DiskRequest): void | Promise<void>
  /** The range's bytes are not needed any more. */
  discard?(request: DiskRequest): void | Promise<void>
  /** The range must read as zeroes. Without this method the kernel writes zeroes. */
  writeZeroes?(request: DiskRequest): void | Promise<void>
  /**
   * The disk is to have that many bytes: makes room, with zeroes, or gives up what lies behind. Called in each of its
   * workers. Without this method the disk keeps its size.
   */
  resize?(size: number): void | Promise<void>
  /** The disk is served no more. */
  close?(): void | Promise<void>
}

/**
 * The requests of one turn of a queue, by position: the form for those who want every nanosecond.
 *
 * Everything in it belongs to the engine. A synchronous `process` has all until it returns; one that
 * returns a promise has a batch of its own until the promise is settled and all requests are completed.
 */
export interface Batch {
  /** How many requests there are. */
  readonly count: number
  /** What each asks for: 0 read, 1 write, 2 flush, 3 discard, 4 write zeroes; see {@link Op}. */
  readonly op: Uint8Array
  /** Where on the disk, in bytes. */
  readonly offset: Float64Array
  /** How much, in bytes. */
  readonly length: Float64Array
  /** What the kernel says beside that: bits of {@link Flag}. */
  readonly flags: Uint8Array
  /**
   * What became of each: bytes done, or a negative error number such as `-5`. Success is set already;
   * only failures have to be.
   */
  readonly result: Int32Array
  /** The data of request `i`, as long as the request. */
  data(i: number): Uint8Array
  /**
   * Finishes request `i` of an asynchronous `process` before the others, with bytes done or a negative
   * error number. What is not finished so is when the promise is fulfilled, with `result[i]`.
   */
  complete(i: number, result: number): void
}

/** The numbers in {@link Batch.op}. */
export const Op: Readonly<{ read: 0; write: 1; flush: 2; discard: 3; writeZeroes: 4 }> = {
  read: OP_READ,
  write: OP_WRITE,
  flush: OP_FLUSH,
  discard: OP_DISCARD,
  writeZeroes: OP_WRITE_ZEROES,
}

/** The bits in {@link Batch.flags}; see {@link DiskRequest}. `noUnmap`: zeroes must not free space. */
export const Flag: Readonly<{ fua: 1; noUnmap: 2; meta: 4; failFast: 8; swap: 16 }> = {
  fua: FLAG_FUA,
  noUnmap: FLAG_NO_UNMAP,
  meta: FLAG_META,
  failFast: FLAG_FAIL_FAST,
  swap: FLAG_SWAP,
}

/** A disk written in JavaScript that takes its requests in batches. */
export interface BatchBackend {
  /** Bytes, or text such as `'1G'`; a multiple of the block size. */
  readonly size: Size
  /**
   * The smallest unit it reads or writes: 512, 1024, 2048 or 4096 bytes.
   *
   * @defaultValue 512
   */
  readonly blockSize?: number
  /**
   * What it can do beyond reading.
   *
   * @defaultValue `['write']`
   */
  readonly operations?: readonly Exclude<Operation, 'read'>[]
  /** Serves a batch. What it throws fails every request that it has not finished. */
  process(batch: Batch): void | Promise<void>
  /**
   * The disk is to have that many bytes: makes room, with zeroes, or gives up what lies behind. Called in each of its
   * workers. Without this method the disk keeps its size.
   */
  resize?(size: number): void | Promise<void>
  /** The disk is served no more. */
  close?(): void | Promise<void>
}

/** Either form of a disk written in JavaScript. */
export type JsBackend = DiskBackend | BatchBackend

/** What a backend's factory is told. */
export interface BackendContext {
  /** The number of the queue that it serves. */
  readonly queue: number
}

/** Makes a worker's backend from the options it was given. */
export type BackendFactory<Options> = (
  options: Options,
  context: BackendContext,
) => JsBackend | Promise<JsBackend>

/**
 * Gives a backend's module its type; the module's default export is what this returns. The factory is
 * called once in each queue's worker. If it says what it returns, `(): DiskBackend => …`, the compiler finds
 * misspelt methods too.
 *
 * @example
 * ```ts
 * export default defineBackend(({ size }: { size: number }) => {
 *   const bytes = new Uint8Array(size)
 *   return {
 *     size,
 *     read: (request, into) => into.set(bytes.subarray(request.offset, request.offset + request.length)),
 *     write: (request, from) => bytes.set(from, request.offset),
 *   }
 * })
 * ```
 */
export function defineBackend<Options = void>(factory: BackendFactory<Options>): BackendFactory<Options> {
  checkFunction(factory, 'the factory that defineBackend() takes')
  return factory
}
