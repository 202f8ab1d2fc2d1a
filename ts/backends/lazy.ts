import { checkFlag, checkOptions, type Names } from '../check.js'
import { invalid } from '../errors.js'
import { cannotRecord } from '../json.js'
import { pathOf } from '../path.js'
import type { Fetch } from '../runtime/lazy-fetcher.js'
import { parseSize, type Size } from '../size.js'
import { nameOf } from '../user-values.js'
import { exclusiveOf } from './claim.js'
import { diskSize } from './disk-size.js'
import type { FileOptions } from './file.js'
import type { Kind } from './kind.js'

/** Where a {@link lazy} disk gets its data, and how. */
export interface LazyOptions {
  /** Bytes, or text such as `'10G'`; a multiple of the block size. */
  size: Size
  /** Called on the thread that creates the device, once for every part; several calls may run at the same time. */
  fetch: Fetch
  /**
   * A sparse file for fetched and written data, created if it does not exist. Beside it, a file with the suffix `.map`
   * records which parts are present. Other users cannot read either file. The next disk with this cache continues with its
   * data; two disks cannot use it at the same time.
   *
   * @defaultValue in memory
   */
  cache?: string | URL | undefined
  /**
   * Bypass the page cache (O_DIRECT) for the cache file.
   *
   * @defaultValue false
   */
  direct?: boolean
  /**
   * Lock the cache file while the disk is served, as {@link FileOptions.exclusive} says. The map is locked in any case.
   *
   * @defaultValue true
   */
  exclusive?: boolean
  /**
   * The smallest part that is fetched: a power of two from 4 KiB to 16 MiB. Adjacent missing parts are fetched together.
   *
   * @defaultValue 128 KiB
   */
  chunk?: Size
  /**
   * A name of the disk's source, such as a URL and its ETag, of at most 1024 bytes. A cache with another identity is
   * refused.
   */
  identity?: string
  /**
   * After how many milliseconds a fetch fails with ETIMEDOUT, from 1.
   *
   * @defaultValue 60000
   */
  timeout?: number
}

/** A disk whose data is fetched on demand; see {@link lazy}. */
export interface LazyBackend {
  readonly kind: 'lazy'
  /** In bytes. */
  readonly size: number
  readonly fetch: Fetch
  readonly cache: string | undefined
  readonly direct: boolean
  /** False if the cache file is not claimed. */
  readonly exclusive: false | undefined
  /** In bytes. */
  readonly chunk: number
  readonly identity: string
  /** In milliseconds. */
  readonly timeout: number
}

const LAZY_OPTIONS: Names<LazyOptions> = {
  size: true,
  fetch: true,
  cache: true,
  direct: true,
  exclusive: true,
  chunk: true,
  identity: true,
  timeout: true,
}

const LEAST_CHUNK = 4096
const MOST_CHUNK = 16 * 2 ** 20

/**
 * A disk whose data is fetched on demand. A part that was not read or written yet is fetched once, stored natively, and
 * then served without JavaScript. A part that is overwritten whole is never fetched. Use it for large images that are far
 * away, and of which only parts are used.
 *
 * Flush makes the cache file durable. After a power failure the cache has the data as of the last flush. The same holds
 * if its file system is unmounted after its process was killed. The file and its map belong together: remove both or
 * none.
 *
 * If the kernel cannot write the cache to its medium, an `error` event says so. Data that was only fetched is fetched
 * again, reads of data written since the last flush fail with EIO until it is overwritten, and every flush fails until
 * another disk is created with the cache. That one begins with the data as of the last flush.
 *
 * @throws UblkError of kind `invalid` if an option is wrong. `UblkDevice.create` opens the cache, and rejects with kind
 * `backend` if that fails, or `busy` if another process uses it.
 *
 * @example
 * ```ts
 * const image = await open('image.raw')
 * const disk = await UblkDevice.create({
 *   backend: lazy({
 *     size: (await image.stat()).size,
 *     cache: 'image.cache',
 *     fetch: async ({ offset, length }) => (await image.read(new Uint8Array(length), 0, length, offset)).buffer,
 *   }),
 * })
 * ```
 */
export function lazy(options: LazyOptions): LazyBackend {
  checkOptions<LazyOptions>(options, 'lazy()', LAZY_OPTIONS)
  const { fetch, cache, direct = false, exclusive, chunk = '128K', identity = '', timeout = 60_000 } = options
  if (typeof fetch !== 'function') {
    throw invalid(`a lazy disk needs a fetch function, not ${nameOf(fetch)}`, 'lazy({ size, fetch })')
  }
  checkFlag(direct, 'direct')
  const path = cache === undefined ? undefined : pathOf(cache, 'the path of the cache')
  const bytes = parseSize(chunk, 'chunk')
  if (bytes < LEAST_CHUNK || bytes > MOST_CHUNK || (bytes & (bytes - 1)) !== 0) {
    throw invalid(`chunk must be a power of two from 4K to 16M, not ${chunk}`)
  }
  if (typeof identity !== 'string') throw invalid(`identity must be text, not ${nameOf(identity)}`)
  if (Buffer.byteLength(identity) > 1024) throw invalid('the identity is longer than 1024 bytes')
  if (!Number.isInteger(timeout) || timeout < 1 || timeout >= 2 ** 31) {
    throw invalid(`timeout must be a whole number from 1 to ${2 ** 31 - 1}, not ${nameOf(timeout)}`)
  }
  const size = diskSize(options.size)
  return {
    kind: 'lazy',
    size,
    fetch,
    cache: path,
    direct,
    exclusive: exclusiveOf(exclusive),
    chunk: bytes,
    identity,
    timeout,
  }
}

/** See {@link lazy}. */
export const lazyKind: Kind<LazyBackend> = {
  name: 'lazy',
  native: true,
  stackable: false,
  check: ({ kind: _, ...options }) => lazy(options as LazyOptions),
  toNative: ({ size, chunk, identity, direct, exclusive, cache: path }) => {
    return { size, chunk, identity, direct, exclusive, path }
  },
  toRecord: () => {
    throw cannotRecord('a lazy backend has a function')
  },
  size: ({ size }) => size,
  withoutClaim: backend => (backend.cache === undefined ? backend : { ...backend, exclusive: false }),
  paths: ({ cache }) => (cache === undefined ? [] : [cache]),
  filling: ({ fetch, timeout }) => ({ fetch, timeout }),
  label: ({ cache }) => cache ?? '',
}
