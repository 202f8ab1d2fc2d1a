import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { checkFlag, checkOptions, type Names } from '../check.js'
import { invalid, wrongNumber, wrongType } from '../errors.js'
import { cannotRecord } from '../json.js'
import { parseSeconds } from '../option-values.js'
import { pathOf } from '../path.js'
import type { Fetch } from '../runtime/lazy-fetcher.js'
import { parseSize, type Size } from '../size.js'
import { nameOf } from '../user-values.js'
import { exclusiveOf } from './claim.js'
import { diskSize } from './disk-size.js'
import type { FileOptions } from './file.js'
import type { Kind } from './kind.js'
import { scratchFile } from './scratch-file.js'
import { mostAtOnce, shownUrl } from './web-fetch.js'

/** Where a {@link lazy} disk gets its data, and how. */
export interface LazyOptions {
  /**
   * The image: an `http:` or `https:` URL, whose server has range requests, or the path of a file or block device. It
   * says the size and the identity of the disk, and is never written to. A file is read natively.
   */
  source?: string | URL
  /** Without `source`: bytes, or text such as `'10G'`; a multiple of the block size. */
  size?: Size
  /**
   * Without `source`: called on the thread that makes the device, once for every part; several may be under way. A disk
   * that is filled by a function cannot be recorded.
   */
  fetch?: Fetch
  /**
   * A sparse file for fetched and written data, created if it does not exist. Beside it, a file with the suffix `.map`
   * records which parts are present. Other users cannot read either file. The next disk with this cache continues with its
   * data; two disks cannot use it at the same time.
   *
   * @defaultValue in memory
   */
  cache?: string | URL | undefined
  /**
   * The most that the cache and its map take up: bytes, or text such as `'64M'`. Data that was only fetched is evicted to
   * stay below that, by what was not used lately, and fetched again. Written data is never evicted: it may take three
   * quarters of the cache, and further writes fail with ENOSPC. A cache keeps the way in which it was made, with or
   * without a bound; the bound itself may change. After a power failure a bounded cache has written data only.
   *
   * @defaultValue no bound
   */
  cacheMax?: Size
  /**
   * Fetch the rest in the background, while no request waits for the source: `true`, or a rate: at most this many bytes a second.
   * It ends when all is there, or the cache is full.
   *
   * @defaultValue false
   */
  fill?: boolean | Size
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
   * Without `source`: a name of the disk's content, such as a URL and its ETag, of at most 1024 bytes. A cache with another
   * identity is refused.
   */
  identity?: string
  /**
   * After how many milliseconds a fetch fails with ETIMEDOUT, from 1. With a URL also: how long the server may take to
   * answer when the disk is created. A web server is asked for eight parts at a time: for the others, the time begins
   * with their turn, and they fail before it only if no other fetch succeeds for this time.
   *
   * @defaultValue 60000
   */
  timeout?: number
}

/** A disk whose data is fetched on demand; see {@link lazy}. */
export interface LazyBackend {
  readonly kind: 'lazy'
  /** A URL or a path. */
  readonly source: string | undefined
  /** In bytes, if no source says it. */
  readonly size: number | undefined
  readonly fetch: Fetch | undefined
  readonly cache: string | undefined
  /** In bytes. */
  readonly cacheMax: number | undefined
  /** Bytes a second, 0 for as many as possible; undefined for none. */
  readonly fill: number | undefined
  readonly direct: boolean
  /** False if the cache file is not claimed. */
  readonly exclusive: false | undefined
  /** In bytes. */
  readonly chunk: number
  readonly identity: string | undefined
  /** In milliseconds. */
  readonly timeout: number
}

const LAZY_OPTIONS: Names<LazyOptions> = {
  source: true,
  size: true,
  fetch: true,
  cache: true,
  cacheMax: true,
  fill: true,
  direct: true,
  exclusive: true,
  chunk: true,
  identity: true,
  timeout: true,
}

const LEAST_CHUNK = 4096
const MOST_CHUNK = 16 * 2 ** 20
/** The most bytes of an image that are read before there is a disk. */
const MOST_FIRST = 2 ** 20

/**
 * A disk whose data is fetched on demand. A part that was not read or written yet is fetched once, stored natively, and
 * then served without JavaScript. A part that is overwritten whole is never fetched. Use it for large images that are far
 * away, and of which only parts are used.
 *
 * Flush makes the cache file durable. After a power failure the cache has the data as of the last flush. The same holds
 * if its file system is unmounted after its process was killed. The file and its map belong together: remove both or
 * none.
 *
 * If the kernel cannot write the cache to its medium, an `error` event says so, and every flush fails until another disk
 * is created with the cache. That one begins with the data as of the last flush. Until then, data that was only fetched
 * is fetched again. Reads of a chunk that was written to, and of which nothing was saved before, fail with EIO until it is
 * overwritten. A chunk that was saved and then overwritten can be read, but the kernel may have dropped the new data:
 * reads may return older data or zeroes.
 *
 * @throws UblkError of kind `invalid` if an option is wrong. `UblkDevice.create` opens the cache, and rejects with kind
 * `backend` if that fails, or `busy` if another process uses it.
 *
 * @example
 * ```ts
 * const disk = await UblkDevice.create({
 *   backend: lazy({ source: 'https://example.org/image.raw', cache: 'image.cache', cacheMax: '1G' }),
 * })
 * ```
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
  const { cache, cacheMax, direct = false, exclusive, chunk = '128K', timeout = 60_000 } = options
  const from = options.source === undefined ? fromFunction(options) : fromSource(options, options.source)
  checkFlag(direct, 'direct')
  const path = cache === undefined ? undefined : pathOf(cache, 'the path of the cache')
  const bytes = parseSize(chunk, 'chunk')
  if (bytes < LEAST_CHUNK || bytes > MOST_CHUNK || (bytes & (bytes - 1)) !== 0) {
    throw invalid(`chunk must be a power of two from 4K to 16M, not ${chunk}`)
  }
  if (!Number.isInteger(timeout) || timeout < 1 || timeout >= 2 ** 31) {
    throw wrongNumber(
      `timeout must be a whole number from 1 to ${2 ** 31 - 1}, not ${nameOf(timeout)}`,
      timeout,
    )
  }
  return {
    kind: 'lazy',
    ...from,
    cache: path,
    cacheMax: cacheMax === undefined ? undefined : parseSize(cacheMax, 'cacheMax'),
    fill: rateOf(options.fill),
    direct,
    exclusive: exclusiveOf(exclusive),
    chunk: bytes,
    timeout,
  }
}

type From = Pick<LazyBackend, 'source' | 'size' | 'fetch' | 'identity'>

function fromFunction({ fetch, size, identity = '' }: LazyOptions): From {
  if (typeof fetch !== 'function') {
    const hint = "lazy({ size, fetch }), or lazy({ source: 'https://…' })"
    throw invalid(`a lazy disk needs a fetch function or a source, not ${nameOf(fetch)}`, hint)
  }
  if (typeof identity !== 'string') throw wrongType(`identity must be text, not ${nameOf(identity)}`)
  if (Buffer.byteLength(identity) > 1024) throw invalid('the identity is longer than 1024 bytes')
  return { source: undefined, size: diskSize(size as Size), fetch, identity }
}

function fromSource(options: LazyOptions, source: string | URL): From {
  for (const name of ['fetch', 'size', 'identity'] as const) {
    if (options[name] !== undefined)
      throw invalid(`a lazy disk with a source has no ${name}`, `leave out ${name}`)
  }
  return { source: sourceOf(source), size: undefined, fetch: undefined, identity: undefined }
}

/** A web address, or a path. */
function sourceOf(source: string | URL): string {
  const text = source instanceof URL ? source.href : source
  if (typeof text === 'string' && isWeb(text) && URL.canParse(text)) return new URL(text).href
  if (typeof text === 'string' && /^[a-z][a-z0-9+.-]*:\/\//i.test(text) && !/^file:/i.test(text)) {
    throw invalid(
      `the source ${text} is no address that can be read`,
      'give an http: or https: URL, or a path',
    )
  }
  return pathOf(source, 'the path of the source')
}

function isWeb(source: string): boolean {
  return /^https?:/i.test(source)
}

function rateOf(fill: boolean | Size | undefined): number | undefined {
  if (fill === undefined || fill === false) return undefined
  if (fill === true) return 0
  return parseSize(fill, 'fill')
}

/** What `--fill max` and `--fill 10M` mean. */
function fillOfFlag(fill: unknown): boolean | Size | undefined {
  return fill === 'max' ? true : (fill as Size | undefined)
}

/** See {@link lazy}. */
export const lazyKind: Kind<LazyBackend> = {
  name: 'lazy',
  native: true,
  stackable: false,
  check: ({ kind: _, ...options }) => lazy(options as LazyOptions),
  toNative: ({ source, size, chunk, identity, direct, exclusive, cache, cacheMax, fill }) => {
    return { source, size, chunk, identity, direct, exclusive, path: cache, max: cacheMax, fill }
  },
  toRecord: backend => {
    const { source, cache } = backend
    if (source === undefined) throw cannotRecord('a lazy backend has a function')
    // The next server may have another working directory.
    return {
      ...backend,
      source: isWeb(source) ? source : resolve(source),
      cache: cache === undefined ? undefined : resolve(cache),
    }
  },
  prepare: async (backend, signal) => {
    const { source, timeout, cache, chunk } = backend
    if (source === undefined || !isWeb(source)) return backend
    const cached = cache !== undefined && existsSync(cache)
    const first = cached || chunk > MOST_FIRST ? {} : { first: chunk }
    const { openHttpImage } = await import('./http-image.js')
    const image = await openHttpImage(source, { timeout, ...first }, signal)
    return { ...backend, source: undefined, ...image }
  },
  size: ({ size }) => size,
  withoutClaim: backend => (backend.cache === undefined ? backend : { ...backend, exclusive: false }),
  paths: ({ source, cache }) =>
    [source, cache].filter(path => path !== undefined && !isWeb(path)) as string[],
  lasting: (backend, made) => {
    if (backend.cache !== undefined) return backend
    const cache = scratchFile()
    for (const path of [cache, `${cache}.map`]) made(path)
    return { ...backend, cache }
  },
  lastingIn: 'cache',
  filling: ({ fetch, timeout }) => (fetch ? { fetch, timeout, atOnce: mostAtOnce(fetch) } : undefined),
  label: ({ source, cache }) =>
    source === undefined ? (cache ?? '') : isWeb(source) ? shownUrl(source) : source,
  commandLine: {
    mains: [
      {
        flags: '--lazy <source>',
        summary: 'a disk filled on demand from a URL, file or block device',
        make: (source, { cache, cacheMax, fill, fetchTimeout, chunk, direct, exclusive }) =>
          lazy({
            source: source === '' || isWeb(source) || source.includes('://') ? source : resolve(source),
            cache: cache === undefined ? undefined : resolve(cache as string),
            direct: direct === true,
            exclusive: exclusive !== false,
            ...(cacheMax === undefined ? {} : { cacheMax: cacheMax as Size }),
            ...(fill === undefined ? {} : { fill: fillOfFlag(fill) as Size }),
            ...(fetchTimeout === undefined ? {} : { timeout: fetchTimeout as number }),
            ...(chunk === undefined ? {} : { chunk: chunk as Size }),
          }),
      },
    ],
    more: [
      {
        flags: '--cache <path>',
        summary: 'a file that keeps what was fetched and written (default: in memory)',
      },
      { flags: '--cache-max <size>', summary: 'the most that the cache takes up: fetched data is evicted' },
      { flags: '--fill <rate>', summary: 'fetch the rest in the background: bytes a second, or max' },
      {
        flags: '--fetch-timeout <seconds>',
        summary: 'how long a web server may take to answer, and to send a part (default: 60)',
        parse: text => Math.round(parseSeconds(text) * 1000),
      },
    ],
    also: ['chunk', 'direct', 'exclusive'],
  },
}
