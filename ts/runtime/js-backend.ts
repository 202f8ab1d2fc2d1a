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
import type { RequestLimits } from './request-limits.js'
import type { RequestFlags } from './requests.js'

/**
 * One request of the kernel. The engine reuses the object: it is valid until the request has finished, that is, until the
 * method has returned or its promise is settled.
 */
export interface DiskRequest extends RequestFlags {
  /** The operation. */
  readonly op: Operation
  /** Where on the disk, in bytes. */
  readonly offset: number
  /** How much, in bytes; 0 for a flush. */
  readonly length: number
}

/**
 * A disk written in JavaScript, with a method per operation. Methods are synchronous or return a promise. A disk supports
 * the operations that it has methods for; it gets no others. If a method throws, the request fails with the `errno` or
 * `code` of a Node error or a UblkError, else with EIO.
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
  /** Limits of the requests that it gets. */
  readonly limits?: RequestLimits
  /**
   * Fills `into` with the disk's data from `request.offset` on. `into` is as long as the request, and valid until the
   * request has finished.
   */
  read(request: DiskRequest, into: Uint8Array): void | Promise<void>
  /** Writes `from` to the disk at `request.offset`. Without this method the disk is read-only. */
  write?(request: DiskRequest, from: Uint8Array): void | Promise<void>
  /**
   * Makes all writes durable that finished before. Without this method the disk has no volatile write cache: a finished
   * write must be durable.
   */
  flush?(request: DiskRequest): void | Promise<void>
  /** The range's data is not needed any more. */
  discard?(request: DiskRequest): void | Promise<void>
  /** The range must read as zeroes. Without this method the kernel writes zeroes. */
  writeZeroes?(request: DiskRequest): void | Promise<void>
  /**
   * Resizes the disk to `size` bytes: new space must read as zeroes, and data beyond the new size is lost. Called in each
   * of its Workers. Without this method the size is fixed.
   */
  resize?(size: number): void | Promise<void>
  /** Called when the disk is not served any more. */
  close?(): void | Promise<void>
}

/**
 * The requests that a queue got at once, by position: the fastest form.
 *
 * The engine reuses everything in it. For a synchronous `process` it is valid until `process` returns. A `process` that
 * returns a promise gets its own batch, valid until the promise is settled and all requests are completed.
 */
export interface Batch {
  /** How many requests there are. */
  readonly count: number
  /** The operations: 0 read, 1 write, 2 flush, 3 discard, 4 write zeroes; see {@link Op}. */
  readonly op: Uint8Array
  /** Where on the disk, in bytes. */
  readonly offset: Float64Array
  /** How much, in bytes. */
  readonly length: Float64Array
  /** The flags of each request: bits of {@link Flag}. */
  readonly flags: Uint8Array
  /**
   * The results: bytes done, or a negative error number such as `-5`. They are preset to success, so you only have to set
   * failures.
   */
  readonly result: Int32Array
  /** The data of request `i`; as long as the request. */
  data(i: number): Uint8Array
  /**
   * Finishes request `i` of an asynchronous `process` before the others, with bytes done or a negative error number. The
   * remaining requests finish with `result[i]` when the promise is fulfilled.
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
  /** Limits of the requests that it gets. */
  readonly limits?: RequestLimits
  /**
   * The operations that it supports in addition to reading.
   *
   * @defaultValue `['write']`
   */
  readonly operations?: readonly Exclude<Operation, 'read'>[]
  /** Serves a batch. If it throws, all requests that it has not finished fail. */
  process(batch: Batch): void | Promise<void>
  /**
   * Resizes the disk to `size` bytes: new space must read as zeroes, and data beyond the new size is lost. Called in each
   * of its Workers. Without this method the size is fixed.
   */
  resize?(size: number): void | Promise<void>
  /** Called when the disk is not served any more. */
  close?(): void | Promise<void>
}

/** Either form of a disk written in JavaScript. */
export type JsBackend = DiskBackend | BatchBackend

/** The second argument of a backend's factory. */
export interface BackendContext {
  /** The number of the queue that it serves. */
  readonly queue: number
}

/** Makes a Worker's backend from the options of {@link worker}. */
export type BackendFactory<Options> = (
  options: Options,
  context: BackendContext,
) => JsBackend | Promise<JsBackend>

/**
 * Gives a backend's module its type; export the result as the module's default export. The factory is called once in each
 * queue's Worker. If you declare its return type, `(): DiskBackend => …`, the compiler finds misspelt methods, too.
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
