import type { DeviceSpec } from '#binding'
import type { Backend } from './backends/list.js'
import { checkStack, sizeOf, stackToNative } from './backends/stack.js'
import type { Names } from './check.js'
import type { CopyMode, Transport } from './choice.js'
import { invalid } from './errors.js'
import { type Pages, pagesOf } from './pages.js'
import type { ExternalBackend } from './runtime/backend-properties.js'
import type { Observe } from './runtime/observer.js'
import { formatSize, parseSize, type Size } from './size.js'
import { inOneLine, isArray, nameOf } from './user-values.js'

/** What kind of disk to make. Sizes are bytes, or text such as `'64K'`. */
export interface DeviceOptions {
  /**
   * What stores the bytes: `memory('16M')`, `nullDisk('1T')`, `file('disk.img')`, `lazy({ size, fetch })`, a
   * `worker(url, options)`, or an object with the methods of a disk.
   */
  backend: Backend
  /**
   * Is told what was changed on a disk with a native backend, such as `file` or `lazy`: every write, discard and
   * write-zeroes that succeeded, many at a time, soon after it was made. If it falls behind by more than 65 536
   * changes, these are told as one of the whole disk. All have been told when `stop` or `delete` resolves.
   *
   * @defaultValue nobody
   */
  observe?: Observe
  /**
   * The number in the device's paths, 0 to 1048575.
   *
   * @defaultValue the kernel picks a free one
   */
  id?: number
  /**
   * Hardware queues, 1 to 4096, served as `threads` says. The kernel keeps at most one per CPU.
   *
   * @defaultValue 1
   */
  queues?: number
  /**
   * Requests each queue holds at a time, 1 to 4096.
   *
   * @defaultValue 128
   */
  depth?: number
  /**
   * The logical block size: 512, 1024, 2048 or 4096.
   *
   * @defaultValue 512; for a file opened with `direct`, what its file system asks for
   */
  blockSize?: Size
  /**
   * The physical block size: a power of two from `blockSize` to 256 MiB.
   *
   * @defaultValue 4096
   */
  physicalBlockSize?: Size
  /**
   * The largest request: 4 KiB to 32 MiB, a multiple of 4 KiB. Each of `queues × depth` requests
   * has a buffer of this size.
   *
   * @defaultValue 512 KiB
   */
  maxIo?: Size
  /**
   * Refuse writes.
   *
   * @defaultValue false
   */
  readOnly?: boolean
  /**
   * Announce a volatile write cache, so that the kernel sends flushes. Without one every write is durable when it is
   * finished, whatever the backend: a disk written in JavaScript that has `flush` is flushed after each.
   *
   * @defaultValue true for a file, a `lazy` disk with a cache, and a disk with a `flush` of its own; false otherwise
   */
  writeCache?: boolean
  /**
   * Announce that seeking is slow.
   *
   * @defaultValue false
   */
  rotational?: boolean
  /**
   * Accept discard requests.
   *
   * @defaultValue whether the backend can
   */
  discard?: boolean
  /**
   * The smallest area a discard frees; a multiple of the block size, at most 1 GiB.
   *
   * @defaultValue from the backend
   */
  discardGranularity?: Size
  /**
   * The largest discard or write-zeroes request; a multiple of the block size, below 2 TiB.
   *
   * @defaultValue from the backend
   */
  maxDiscard?: Size
  /**
   * What becomes of the disk when who serves it ends: without this the disk goes too. With it, a new worker takes over
   * from a `worker` that ended. After any other failure, of the process too (killed, an exception that nobody catches, an
   * exit status other than 0), the disk stays for another process. Until then its users wait:
   *
   * - `requeue`: requests that the old server had taken fail
   * - `reissue`: they are sent again; only for a backend that may see the same write twice
   * - `fail`: all requests fail (kernel 6.13)
   */
  recovery?: 'requeue' | 'reissue' | 'fail'
  /**
   * Which native threads serve the queues of a disk with a native backend:
   *
   * - `own`: one for each queue, which is fastest
   * - `shared`: at most four, for the queues of all devices of this process that share them. An idle device then costs
   *   no thread, and a busy one is nearly as fast, as long as few are busy at a time
   *
   * @defaultValue 'own'
   */
  threads?: 'own' | 'shared'
  /**
   * How requests come from the driver, and answers go back:
   *
   * - `per-io`: each request that may be in flight has a command of its own
   * - `batch`: one command answers many requests, and one waits for all (kernel 7.0). With `recovery` `'requeue'` such
   *   a device cannot be handed over to another server while it is live
   * - `auto`: the better one
   *
   * {@link UblkDevice.choice} says what a device got and why, {@link autoChoices} what `auto` means here. It stays when
   * another server takes the device over.
   *
   * @defaultValue 'auto'
   */
  transport?: 'auto' | Transport
  /**
   * How the data of requests gets to the backend and back:
   *
   * - `copy`: the driver copies it, from or to a buffer that each request has. Any user can have this, with any backend
   * - `user`: the server copies it through `/dev/ublkcN`: for `memory` without a file, `nullDisk`, and disks written in
   *   JavaScript (kernel 6.5)
   * - `zero`: nobody does; what is done to a file is done with the request's own pages: for `file`, and `lazy` with a
   *   cache (kernel 6.16)
   * - `auto`: the best that kernel, backend and user allow
   *
   * `user` and `zero` take CAP_SYS_ADMIN. It stays when another server takes the device over, whose backend has to be
   * one that can: a disk of a file that is served with `zero` cannot go on as one written in JavaScript.
   *
   * @defaultValue 'auto'
   */
  copy?: 'auto' | CopyMode
  /**
   * Files in memory, such as in `/dev/shm`, that the disk shares with its clients from its start on: a client that maps
   * one and reads or writes the disk directly (`O_DIRECT`) from there spares the driver's copy. With an empty list it
   * shares none yet, and can ({@link ServedDevice.share}). Requires kernel 7.1, and excludes `recovery`. A disk written
   * in JavaScript gets a copy of the data.
   */
  share?: string[]
  /**
   * How many threads serve each queue of a disk with a native backend, 1 to 64, and no more than `depth`. Each has a share of
   * its requests: for backends that are kept busy by a few requests, where the kernel has fewer queues than that takes.
   * Which is its own with `transport` `per-io`; with `batch`, what the others are too busy for. More than one needs kernel
   * 6.16, and `threads` of their `own`.
   *
   * @defaultValue 1
   */
  threadsPerQueue?: number
  /**
   * Whether the threads of a disk with several queues, where each has its own, run only on the CPUs whose requests the
   * kernel brings to their queue. CPUs that the process may not use do not count: where no other is left, or the kernel
   * does not tell, a thread runs anywhere.
   *
   * @defaultValue true, unless they `poll`: there they would be in the way of who sends the requests
   */
  affinity?: boolean
  /**
   * For how many microseconds the thread of a queue that has had requests looks for more before it sleeps, as long as
   * that pays: 0, which is not at all, to 1000. It saves the time of a wake-up where requests follow each other closely,
   * and costs a processor meanwhile. An idle disk always sleeps. Not for `shared` threads; without effect where an
   * event loop serves the disk, or the thread may use only one CPU.
   *
   * @defaultValue 0
   */
  poll?: number
  /**
   * How the pages of the requests' buffers are had, of which there are `queues × depth × maxIo` bytes. With `copy`
   * `zero` there are none.
   *
   * @defaultValue each with its first use
   */
  buffers?: Pages
  /**
   * After how many milliseconds a request that an asynchronous backend has not finished is answered with
   * ETIMEDOUT. Requests then get buffers of their own, which costs a copy.
   *
   * @defaultValue none
   */
  requestTimeout?: number
  /**
   * After how many milliseconds a worker that has requests and does not get round, as in an endless loop,
   * is ended; 0: never.
   *
   * @defaultValue 30000
   */
  stuckTimeout?: number
  /**
   * Whether the kernel looks for partitions when the disk appears. False needs kernel 7.0.
   *
   * @defaultValue true
   */
  partitionScan?: boolean
  /**
   * How long to wait for the kernel's answer to one command, in milliseconds, from 1.
   *
   * @defaultValue 10000
   */
  timeout?: number
}

/** The names of all options. */
export const DEVICE_OPTIONS: Names<DeviceOptions> = {
  backend: true,
  observe: true,
  id: true,
  queues: true,
  depth: true,
  blockSize: true,
  physicalBlockSize: true,
  maxIo: true,
  readOnly: true,
  writeCache: true,
  rotational: true,
  discard: true,
  discardGranularity: true,
  maxDiscard: true,
  recovery: true,
  threads: true,
  transport: true,
  copy: true,
  share: true,
  threadsPerQueue: true,
  affinity: true,
  poll: true,
  buffers: true,
  requestTimeout: true,
  stuckTimeout: true,
  partitionScan: true,
  timeout: true,
}

const BACKEND_HINT =
  "make one with memory('16M'), nullDisk('1T'), file('disk.img'), lazy({ size, fetch }) or worker(url), " +
  'or pass an object with the methods of a disk'

/**
 * Checks that a value may be a backend; its server checks the rest.
 *
 * @throws UblkError of kind `invalid`.
 */
export function checkBackend(backend: unknown): asserts backend is Backend {
  if (typeof backend === 'object' && backend !== null && !isArray(backend)) return
  throw invalid(`backend must be a backend, not ${nameOf(backend)}`, BACKEND_HINT)
}

const BLOCK_SIZES = [512, 1024, 2048, 4096]
const PAGE = 4096
const MAX_IO = 32 * 2 ** 20

/**
 * Checks the options that can be checked without touching the system, and turns them into what the native part takes.
 *
 * @throws UblkError of kind `invalid`.
 */
export function toSpec(options: DeviceOptions, external?: ExternalBackend): DeviceSpec {
  const native = external ? undefined : checkStack(options.backend)
  const blockSize = size(options, 'blockSize')
  if (blockSize !== undefined && !BLOCK_SIZES.includes(blockSize)) {
    throw invalid(`block size must be 512, 1024, 2048 or 4096, not ${options.blockSize}`)
  }
  const block = blockSize ?? external?.blockSize ?? 512
  const { observe }: { observe?: unknown } = options
  if (observe !== undefined && typeof observe !== 'function') {
    throw invalid(`observe must be a function, not ${nameOf(observe)}`)
  }
  if (observe !== undefined && external) {
    throw invalid('a disk written in JavaScript has nothing to observe', 'it sees every request itself')
  }
  const bytes = native ? sizeOf(native) : external?.size
  if (bytes !== undefined && bytes % block !== 0) {
    throw invalid(`size ${bytes} is not a multiple of the block size ${block}`)
  }
  return {
    backend: native ? stackToNative(native) : { ...external, kind: 'external' },
    id: count(options, 'id', 0, 2 ** 20 - 1),
    queues: count(options, 'queues', 1, 4096),
    depth: count(options, 'depth', 1, 4096),
    blockSize,
    physicalBlockSize: physicalBlockSize(options, block),
    maxIo: maxIo(options),
    readOnly: flag(options, 'readOnly'),
    writeCache: flag(options, 'writeCache'),
    rotational: flag(options, 'rotational'),
    discard: flag(options, 'discard'),
    discardGranularity: blocks(options, 'discardGranularity', block, 2 ** 30),
    maxDiscard: blocks(options, 'maxDiscard', block, 2 ** 41 - block),
    recovery: oneOf(options, 'recovery', ['requeue', 'reissue', 'fail']),
    partitionScan: flag(options, 'partitionScan'),
    threads: threads(options, external !== undefined),
    sharedMemory: paths(options) && true,
    transport: oneOf(options, 'transport', ['auto', 'per-io', 'batch']),
    copy: oneOf(options, 'copy', ['auto', 'copy', 'user', 'zero']),
    threadsPerQueue: threadsPerQueue(options, external !== undefined),
    affinity: affinity(options, external !== undefined),
    poll: poll(options),
    buffers: pagesOf(options.buffers, 'buffers'),
    timeoutMs: count(options, 'timeout', 1, 2 ** 31 - 1),
  }
}

/** The times that concern only disks written in JavaScript, in milliseconds. */
export function jsTimes(options: DeviceOptions): { timeout: number; stuckTimeout: number } {
  return {
    timeout: count(options, 'requestTimeout', 1, 2 ** 31 - 1) ?? 0,
    stuckTimeout: count(options, 'stuckTimeout', 0, 2 ** 31 - 1) ?? 30_000,
  }
}

function threads(options: DeviceOptions, external: boolean): 'own' | 'shared' | undefined {
  const threads = oneOf(options, 'threads', ['own', 'shared'])
  if (threads === 'shared' && external) {
    throw invalid(
      'a disk written in JavaScript cannot share native threads',
      'its queues are served by Workers, or by the event loop',
    )
  }
  return threads
}

function affinity(options: DeviceOptions, external: boolean): boolean | undefined {
  const affinity = flag(options, 'affinity')
  if (affinity && (external || options.threads === 'shared')) {
    throw invalid('affinity is for native threads, one for each queue')
  }
  return affinity
}

function threadsPerQueue(options: DeviceOptions, external: boolean): number | undefined {
  const threads = count(options, 'threadsPerQueue', 1, 64)
  if (threads === undefined || threads === 1) return threads
  if (external || options.threads === 'shared') {
    throw invalid('several threads for each queue are for disks with native threads of their own')
  }
  const depth = count(options, 'depth', 1, 4096) ?? 128
  if (threads > depth)
    throw invalid(`threads per queue must be no more than the depth ${depth}, not ${threads}`)
  return threads
}

function poll(options: DeviceOptions): number | undefined {
  const poll = count(options, 'poll', 0, 1000)
  if (poll && options.threads === 'shared')
    throw invalid('shared threads do not poll', 'leave out threads or poll')
  return poll
}

type Key = Exclude<keyof DeviceOptions, 'backend' | 'observe' | 'buffers'>

/** `maxIo` → `max io`, which suits the option of the API and that of the command line alike. */
function label(key: Key): string {
  return key.replace(/[A-Z]/g, letter => ` ${letter.toLowerCase()}`)
}

function count(options: DeviceOptions, key: Key, min: number, max: number): number | undefined {
  const value: unknown = options[key]
  if (value === undefined) return undefined
  if (typeof value !== 'number' || !Number.isInteger(value) || value < min || value > max) {
    throw invalid(`${label(key)} must be a whole number from ${min} to ${max}, not ${shown(value)}`)
  }
  return value
}

function oneOf<Word extends string>(
  options: DeviceOptions,
  key: Key,
  words: readonly [...Word[], Word],
): Word | undefined {
  const value: unknown = options[key]
  const known = words.find(word => word === value)
  if (value === undefined || known !== undefined) return known
  throw invalid(
    `${label(key)} must be ${words.slice(0, -1).join(', ')} or ${words.at(-1)}, not ${shown(value)}`,
  )
}

/** A value for an error message: text without quotation marks. */
function shown(value: unknown): string {
  return typeof value === 'string' ? inOneLine(value) : nameOf(value)
}

/** What `share` says, if anything. */
export function paths({ share }: DeviceOptions): readonly string[] | undefined {
  const wrong = (value: unknown): boolean => typeof value !== 'string' || value === ''
  if (share !== undefined && (!Array.isArray(share) || share.some(wrong))) {
    throw invalid('share must be a list of paths of files in memory')
  }
  return share
}

function flag(options: DeviceOptions, key: Key): boolean | undefined {
  const value: unknown = options[key]
  if (value === undefined || typeof value === 'boolean') return value
  throw invalid(`${label(key)} must be true or false, not ${shown(value)}`)
}

function size(options: DeviceOptions, key: Key): number | undefined {
  const value = options[key] as Size | undefined
  return value === undefined ? undefined : parseSize(value, label(key))
}

function blocks(options: DeviceOptions, key: Key, block: number, max: number): number | undefined {
  const bytes = size(options, key)
  if (bytes === undefined || (bytes > 0 && bytes <= max && bytes % block === 0)) return bytes
  throw invalid(
    `${label(key)} must be a multiple of the block size ${block}, at most ${formatSize(max)}, not ${options[key]}`,
  )
}

function physicalBlockSize(options: DeviceOptions, block: number): number | undefined {
  const bytes = size(options, 'physicalBlockSize')
  if (bytes === undefined) return undefined
  if (bytes < block || bytes > 2 ** 28 || (bytes & (bytes - 1)) !== 0) {
    throw invalid(`physical block size must be a power of two from ${block} to 256M, not ${bytes}`)
  }
  return bytes
}

function maxIo(options: DeviceOptions): number | undefined {
  const bytes = size(options, 'maxIo')
  if (bytes === undefined || (bytes >= PAGE && bytes <= MAX_IO && bytes % PAGE === 0)) return bytes
  throw invalid(`max io must be a multiple of 4K from 4K to 32M, not ${options.maxIo}`)
}
