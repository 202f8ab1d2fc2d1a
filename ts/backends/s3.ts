import { resolve } from 'node:path'
import { checkOptions } from '../check.js'
import { invalid, wrongType } from '../errors.js'
import { parseSeconds } from '../option-values.js'
import { parseSize, type Size } from '../size.js'
import { nameOf } from '../user-values.js'
import type { Kind } from './kind.js'
import { needsRemote } from './needs-remote.js'

/** A volume in an object store; see {@link s3}. */
export interface S3Backend {
  readonly kind: 's3'
  /** Where the volume is. */
  readonly url: string
  /** The directory of the local files. */
  readonly cache: string
  /** How long the local file may become, in bytes. */
  readonly cacheMax: number | undefined
  /** The size of a volume that is made if there is none, in bytes. */
  readonly size: number | undefined
  /** A snapshot of another volume, with which one begins that is made if there is none. */
  readonly from: string | undefined
  /** The name of a snapshot, or a time in milliseconds since 1970: the disk is as it was then. */
  readonly at: string | number | undefined
  /** How long what was stored can still be opened as it was then, in seconds. */
  readonly retain: number | undefined
  /** What a flush promises. */
  readonly durable: 'object' | 'local'
  /** How long what was written waits for more, in milliseconds. */
  readonly delay: number | undefined
  /** How long a read waits for the store, in milliseconds. */
  readonly timeout: number | undefined
}

/** How {@link s3} uses a store. */
export interface S3Options {
  /** A directory for what was written and read, on a disk of this machine. One volume has it at a time. */
  cache: string
  /**
   * How much of this machine's disk that may take up: at least 64 MiB. A quarter of it, at most 1 GiB, is for what was written.
   *
   * @defaultValue 1 GiB
   */
  cacheMax?: Size
  /** The size of the disk, a multiple of 4096: a volume is made if there is none, and refused if it has another size. */
  size?: Size
  /**
   * A snapshot of another volume in the same bucket, as its URL, `@` and the snapshot's name: if there is no volume, one is made
   * that begins with it. Nothing is copied: what was not written to the clone is read from the other volume's objects. A snapshot that
   * has clones cannot be removed.
   */
  from?: string
  /**
   * An earlier state of the volume: the name of a {@link UblkDevice.snapshot | snapshot}, or a time. The disk is as it was then, and
   * has to be `readOnly`. The volume's writer goes on. What was stored at a time is there as long as `retain` of the volume's
   * writer says.
   */
  at?: string | Date
  /**
   * How long what was stored can still be opened as it was then, with `at` and a time: in seconds, 1 to 31536000. What is
   * overwritten takes up space for that long.
   *
   * @defaultValue not at all
   */
  retain?: number
  /**
   * What a flush promises. `object`: all that was written before is in the store. `local`: it is on the medium of this machine,
   * in `cache`; it is sent to the store soon, in the order in which it was written, so that a lost machine leaves in the store what
   * a power cut some time ago would have left.
   *
   * @defaultValue 'object'
   */
  durable?: 'object' | 'local'
  /**
   * How long what was written may wait for more before it is sent to the store, if nobody flushes, in milliseconds: 1 to 3600000.
   *
   * @defaultValue 1000
   */
  delay?: number
  /**
   * How long a read waits for a store that does not answer, in milliseconds: 1000 to 2147483647. Then it fails with EIO. What
   * was written waits without a limit, and a flush with it; the disk's `error` event says so.
   *
   * @defaultValue 60000
   */
  timeout?: number
}

const NAMES = {
  cache: true,
  cacheMax: true,
  size: true,
  from: true,
  at: true,
  retain: true,
  durable: true,
  delay: true,
  timeout: true,
} as const
const LIMITS = { retain: [1, 31_536_000], delay: [1, 3_600_000], timeout: [1000, 2 ** 31 - 1] } as const
const SCHEMES = ['s3', 'gs', 'az', 'file']
const BLOCK = 4096

/**
 * A volume in an object store: S3 and what speaks its protocol, Google Cloud Storage, Azure, or a directory. It needs the package
 * `@ublk-ts/remote` beside this one.
 *
 * What is written goes to a file in `cache`, and from there to the store, in segments of up to 8 MiB, each of which is created
 * once and never changed. What is read is kept in `cache`, too. Who opens a volume is its only writer: another server that has
 * it open learns that with its next write to the store, and its disk fails from then on.
 *
 * Credentials are those of the environment or the usual files, as for the tools of each store: never part of the URL, and never in
 * records or logs. The disk has blocks of 4096 bytes.
 *
 * @param url - `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or `file:///directory`.
 * @param options - The cache, and what is promised.
 * @throws UblkError of kind `invalid` if the URL or an option is wrong. `UblkDevice.create` rejects with kind `backend` if the
 * store cannot be used, `not-found` if there is no volume and no `size`, or `unsupported` without `@ublk-ts/remote`.
 *
 * @example
 * ```ts
 * await UblkDevice.create({
 *   backend: s3('s3://my-bucket/disks/db', { cache: '/var/cache/db', size: '100G', durable: 'local' }),
 * })
 * ```
 */
export function s3(url: string, options: S3Options): S3Backend {
  checkOptions<S3Options>(options, 's3()', NAMES)
  if (typeof url !== 'string') throw wrongType(`the URL of a volume must be text, not ${nameOf(url)}`)
  const scheme = /^(\w+):\/\//.exec(url)?.[1]
  if (scheme === undefined || !SCHEMES.includes(scheme)) {
    throw invalid(`${nameOf(url)} is no URL of a volume: it begins with s3://, gs://, az:// or file://`)
  }
  if (url.includes('@')) {
    throw invalid(
      'the URL of a volume has no credentials: those of the environment count',
      'a snapshot is named with at',
    )
  }
  const { cache, cacheMax, size, from, at, retain, durable = 'object', delay, timeout } = options
  if (typeof cache !== 'string' || cache === '') {
    throw wrongType(`the cache of a volume must be the path of a directory, not ${nameOf(cache)}`)
  }
  if (durable !== 'object' && durable !== 'local') {
    throw invalid(`durable must be 'object' or 'local', not ${nameOf(durable)}`)
  }
  const bytes = size === undefined ? undefined : parseSize(size, 'size')
  if (bytes !== undefined && (bytes === 0 || bytes % BLOCK !== 0)) {
    throw invalid(`the size of a volume must be a multiple of ${BLOCK}, not ${bytes}`)
  }
  if (from !== undefined && size !== undefined) {
    throw invalid('a clone has the size of its snapshot', 'resize the disk afterwards')
  }
  if (at !== undefined && (from ?? size ?? retain) !== undefined) {
    throw invalid('an earlier state of a volume is only read: at goes without size, from and retain')
  }
  return {
    kind: 's3',
    url,
    cache,
    cacheMax: cacheMax === undefined ? undefined : parseSize(cacheMax, 'cacheMax'),
    size: bytes,
    from: from === undefined ? undefined : checkFrom(url, from),
    at: at === undefined ? undefined : checkAt(at),
    retain: inRange('retain', retain),
    durable,
    delay: inRange('delay', delay),
    timeout: inRange('timeout', timeout),
  }
}

const SNAPSHOT = /^[\w-][\w.-]{0,99}$/

/** Checks what a clone begins with. */
function checkFrom(url: string, from: unknown): string {
  if (typeof from !== 'string') throw wrongType(`from must be text, not ${nameOf(from)}`)
  const { url: other, snapshot } = originOf(from)
  if (!SNAPSHOT.test(snapshot) || !/^\w+:\/\//.test(other) || other.includes('@')) {
    throw invalid(`${nameOf(from)} is no snapshot of a volume`, 'such as s3://my-bucket/golden@monday')
  }
  const bucket = (of: string): string => (of.startsWith('file://') ? 'file://' : of.split('/', 3).join('/'))
  if (bucket(other) !== bucket(url)) throw invalid('a clone is in the same bucket as the other volume')
  return from
}

function originOf(from: string): { url: string; snapshot: string } {
  const end = from.lastIndexOf('@')
  return { url: from.slice(0, Math.max(end, 0)), snapshot: from.slice(end + 1) }
}

/** Checks the name of a snapshot, or a time. */
function checkAt(at: unknown): string | number {
  if (typeof at === 'string' && SNAPSHOT.test(at)) return at
  const time = at instanceof Date ? at.getTime() : at
  if (typeof time === 'number' && Number.isInteger(time) && time >= 0) return time
  throw invalid(`at must be the name of a snapshot or a Date, not ${nameOf(at)}`)
}

function inRange(name: keyof typeof LIMITS, value: unknown): number | undefined {
  if (value === undefined) return undefined
  const [least, most] = LIMITS[name]
  if (typeof value !== 'number' || !Number.isInteger(value) || value < least || value > most) {
    throw invalid(`${name} must be a whole number from ${least} to ${most}, not ${nameOf(value)}`)
  }
  return value
}

/** See {@link s3}. */
export const s3Kind: Kind<S3Backend> = {
  name: 's3',
  native: true,
  stackable: true,
  // With `empty`, which only a move sets, a volume that was written to is refused.
  check: ({ kind: _, url, empty, ...options }: S3Backend & { empty?: boolean }) => ({
    ...s3(url, options as S3Options),
    ...(empty === true ? { empty } : {}),
  }),
  toNative: ({
    url,
    cache,
    cacheMax,
    size,
    from,
    at,
    retain,
    empty,
    durable,
    delay,
    timeout,
  }: S3Backend & { empty?: boolean }) => ({
    url,
    cache,
    cacheMax,
    size,
    from: from === undefined ? undefined : originOf(from),
    at: at === undefined ? undefined : typeof at === 'string' ? { snapshot: at } : { time: at },
    retain,
    empty,
    durable,
    delay,
    timeout,
  }),
  toRecord: backend => ({ ...backend, cache: resolve(backend.cache) }),
  size: ({ size }) => size,
  // The volume knows it: it may have been resized, and been the clone of a snapshot.
  ofSize: backend => ({ ...backend, size: undefined, from: undefined }),
  paths: ({ cache }) => [resolve(cache)],
  label: ({ url }) => url,
  prepare: async backend => {
    await needsRemote('a disk in an object store')
    return backend
  },
  commandLine: {
    mains: [
      {
        flags: '--s3 <url>',
        summary: 'a volume in an object store: s3://, gs://, az:// or file://',
        make: (url, { cache, cacheMax, volumeSize, from, at, retain, durable, fetchTimeout }) =>
          s3(url, {
            cache: resolve(cacheOf(cache)),
            ...(cacheMax === undefined ? {} : { cacheMax: cacheMax as Size }),
            ...(volumeSize === undefined ? {} : { size: volumeSize as Size }),
            ...(from === undefined ? {} : { from: from as string }),
            ...(at === undefined ? {} : { at: at as string | Date }),
            ...(retain === undefined ? {} : { retain: retain as number }),
            ...(durable === undefined ? {} : { durable: durable as 'object' | 'local' }),
            ...(fetchTimeout === undefined ? {} : { timeout: fetchTimeout as number }),
          }),
      },
    ],
    more: [
      {
        flags: '--volume-size <size>',
        summary: 'make the volume, if there is none, as large as that',
      },
      {
        flags: '--from <url@snapshot>',
        summary: 'make the volume, if there is none, as a clone of a snapshot of another one',
      },
      {
        flags: '--at <snapshot|time>',
        summary:
          'the volume as it was: a snapshot of it, or a time such as 2026-01-31T12:00Z; needs --read-only',
        parse: atOf,
      },
      {
        flags: '--retain <seconds>',
        summary: 'how long what was stored can still be opened with --at and a time',
        parse: parseSeconds,
      },
      {
        flags: '--durable <where>',
        summary: 'what a flush promises: object, it is in the store (default); local, it is on this machine',
      },
    ],
    also: ['cache', 'cacheMax', 'fetchTimeout'],
  },
}

function atOf(text: string): string | Date {
  return text.includes(':') ? new Date(text) : text
}

function cacheOf(cache: unknown): string {
  if (typeof cache !== 'string')
    throw invalid('a volume in an object store needs --cache, a directory of this machine')
  return cache
}
