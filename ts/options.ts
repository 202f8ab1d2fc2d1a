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

/** What kind of disk to create. Sizes are in bytes, or text such as `'64K'`. */
export interface DeviceOptions {
  /**
   * What stores the bytes: `memory('16M')`, `nullDisk('1T')`, `file('disk.img')`, `lazy({ size, fetch })`, a
   * `worker(url, options)`, or an object with the methods of a disk.
   */
  backend: Backend
  /**
   * Called with the changes of a disk with a native backend, such as `file` or `lazy`: every write, discard and
   * write-zeroes that succeeded, many at a time, soon after it was made. If it falls behind by more than 65 536
   * changes, it gets one change of the whole disk instead. All calls have been made when `stop` or `delete` resolves.
   *
   * @defaultValue none
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
   * Requests in flight on each queue, 1 to 4096.
   *
   * @defaultValue 128
   */
  depth?: number
  /**
   * The logical block size: 512, 1024, 2048 or 4096.
   *
   * @defaultValue 512; for a file opened with `direct`, what its file system requires
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
   * Announce a volatile write cache, so that the kernel sends flushes. Without a write cache every write is durable when
   * it completes, with any backend: `flush` of a disk written in JavaScript is called after each write.
   *
   * @defaultValue true for a file, a `lazy` disk with a cache, and a JavaScript disk with `flush`; false otherwise
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
   * @defaultValue whether the backend supports it
   */
  discard?: boolean
  /**
   * The smallest area that a discard frees; a multiple of the block size, at most 1 GiB.
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
   * What happens to the disk when its server ends. Without `recovery`, the disk is removed. With it, a new Worker takes
   * over if a Worker ended. After any other failure, also of the process (killed, an uncaught exception, an exit status
   * other than 0), the disk stays until another process takes it over. Until then new requests wait, except with `fail`:
   *
   * - `requeue`: requests in flight fail
   * - `reissue`: requests in flight are sent again; only for a backend that may get the same write twice
   * - `fail`: all requests fail (kernel 6.13)
   */
  recovery?: 'requeue' | 'reissue' | 'fail'
  /**
   * Which native threads serve the queues of a disk with a native backend:
   *
   * - `own`: one thread for each queue, which is fastest
   * - `shared`: at most four threads for all devices of this process with this value. An idle device then needs no thread,
   *   and a busy one is nearly as fast, as long as few devices are busy at a time
   *
   * @defaultValue 'own'
   */
  threads?: 'own' | 'shared'
  /**
   * How requests come from the driver, and answers go back:
   *
   * - `per-io`: each tag has its own driver command
   * - `batch`: one command answers many requests, and one waits for all new ones (kernel 7.0). With `recovery`
   *   `'requeue'`, a live device with this transport cannot be handed over to another server
   * - `auto`: the faster one
   *
   * {@link UblkDevice.choice} says what a device got and why, {@link autoChoices} what `auto` means on this machine. The
   * transport stays the same when another server takes over the device.
   *
   * @defaultValue 'auto'
   */
  transport?: 'auto' | Transport
  /**
   * How the data of requests gets to the backend and back (the copy mode):
   *
   * - `copy`: the driver copies it, from or to the request's buffer. It works for all users and backends
   * - `user`: the server copies it through `/dev/ublkcN`: for `memory` without a file, `nullDisk`, and disks written in
   *   JavaScript (kernel 6.5)
   * - `zero`: no copy; the file is read into, and written from, the request's own pages: for `file`, and `lazy` with a
   *   cache (kernel 6.16)
   * - `auto`: the best that kernel, backend and user allow
   *
   * `user` and `zero` need CAP_SYS_ADMIN. The copy mode stays the same when another server takes over the device, and the
   * new backend must support it: a disk in a file that is served with `zero` cannot be recovered with a backend in
   * JavaScript.
   *
   * @defaultValue 'auto'
   */
  copy?: 'auto' | CopyMode
  /**
   * Files in memory, such as in `/dev/shm`, that the disk shares with its clients. If a client maps such a file, and reads
   * or writes the disk with direct I/O (`O_DIRECT`) from this mapping, the driver does not copy the data. With an empty
   * list, files can be added later ({@link ServedDevice.share}). Requires kernel 7.1, and excludes `recovery`. A disk
   * written in JavaScript gets a copy of the data.
   */
  share?: string[]
  /**
   * How many threads serve each queue of a disk with a native backend, 1 to 64, and no more than `depth`. Use this for
   * backends that need more parallelism than there are queues. With `transport` `per-io`, the queue's tags are divided
   * among the threads; with `batch`, a thread gets the requests that the others are too busy for. More than one needs
   * kernel 6.16, and `threads: 'own'`.
   *
   * @defaultValue 1
   */
  threadsPerQueue?: number
  /**
   * Whether each queue's thread is pinned to the CPUs whose requests come to that queue. It has an effect only for disks
   * with several queues and `threads: 'own'`. A thread is not pinned if the process may use none of these CPUs, or the
   * kernel does not report them.
   *
   * @defaultValue true unless `poll` is set: a polling thread would take the CPU from the process that sends the requests
   */
  affinity?: boolean
  /**
   * Busy-poll: for how many microseconds a queue's thread checks for further requests before it sleeps, 0 (not at all) to
   * 1000. This saves the wake-up time if requests follow each other closely, and uses CPU time meanwhile. Polling that
   * finds nothing becomes rare, and an idle disk always sleeps. It excludes `shared` threads, and has no effect if an event
   * loop serves the disk, or the thread may use only one CPU.
   *
   * @defaultValue 0
   */
  poll?: number
  /**
   * How the pages of the I/O buffers (`queues × depth × maxIo` bytes) are allocated. With `copy: 'zero'` there are no
   * buffers.
   *
   * @defaultValue each on first use
   */
  buffers?: Pages
  /**
   * After how many milliseconds a request fails with ETIMEDOUT if an asynchronous backend has not finished it. Each
   * request then gets its own buffer, which costs a copy.
   *
   * @defaultValue none
   */
  requestTimeout?: number
  /**
   * Terminate a Worker that has requests but made no progress for this many milliseconds, for example because of an
   * endless loop; 0: never.
   *
   * @defaultValue 30000
   */
  stuckTimeout?: number
  /**
   * Whether the kernel looks for partitions when the disk appears. `false` needs kernel 7.0.
   *
   * @defaultValue true
   */
  partitionScan?: boolean
  /**
   * How long to wait for the kernel's answer to one control command, in milliseconds; at least 1.
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
