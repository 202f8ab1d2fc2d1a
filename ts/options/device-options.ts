// Written by scripts/options.mjs from ts/options/table.ts: change that, and run the script.

import type { Backend } from '../backends/list.js'
import type { CopyMode, Transport } from '../choice.js'
import type { Pages } from '../pages.js'
import type { Observe } from '../runtime/observer.js'
import type { Size } from '../size.js'
import type { RecordOptions } from './record.js'

/** What kind of disk to create. Sizes are in bytes, or text such as `'64K'`. */
export interface DeviceOptions {
  /**
   * What stores the bytes: `memory(size)`, `nullDisk(size)`, `file(path, { direct, exclusive })`,
   * `qcow2(path, { backing, exclusive })`, `lazy({ source, cache, cacheMax, fill })` or `lazy({ size, fetch })`,
   * `nbd(uri, { timeout, journal })`, `qemu(driver, { keyFile, direct, exclusive })`, `rbd(image, { user, conf })`,
   * `s3(url, { cache, size, durable })`, `worker(url, options)`, or an object with the methods of a disk; composed of
   * other backends: `stripe(disks, { chunk })`, `concat(disks)`, `mirror(disks, { bitmap })`,
   * `slice(disk, { offset, size })`, `overlay(base, { upper, size })`, `tracked(disk, { map })`,
   * `faults(disk, rules)`, `powercut({ over, replay, unit, seed })`.
   */
  backend: Backend
  /**
   * A function that is called with the changes of a disk with a native backend, such as `file` or `lazy`. It gets
   * every write, discard and write-zeroes that succeeded, many at a time, soon after it was made. If it falls behind
   * by more than 65 536 changes, it gets one change of the whole disk instead. All calls have been made when `stop` or
   * `delete` resolves.
   *
   * @defaultValue none
   */
  observe?: Observe
  /**
   * The number in the disk's path, such as 0 for `/dev/ublkb0`: 0 to 1048575.
   *
   * @defaultValue a free one
   */
  id?: number
  /**
   * A name for the disk, such as `db`: it is then also `/dev/ublk/db`, and commands take its name. A name has 1 to 64
   * letters, digits, `.`, `-` and `_`. Only root can give one. The link is there as long as the device; another server
   * that takes over the device keeps it.
   *
   * @defaultValue none
   */
  name?: string
  /**
   * Hardware queues, of which the kernel keeps at most one per CPU: 1 to 4096. They are served as `threads` says.
   *
   * @defaultValue 1
   */
  queues?: number
  /**
   * Requests in flight on each queue: 1 to 4096.
   *
   * @defaultValue 128
   */
  depth?: number
  /**
   * The logical block size: 512, 1024, 2048 or 4096.
   *
   * @defaultValue 512, or what a file that is opened with `direct` requires
   */
  blockSize?: Size
  /**
   * The physical block size: a power of two from the block size to 256 MiB.
   *
   * @defaultValue 4 KiB
   */
  physicalBlockSize?: Size
  /**
   * The largest request: a multiple of 4 KiB from 4 KiB to 32 MiB. Each of `queues × depth` requests has a buffer of
   * this size.
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
   * Announce a volatile write cache, so that the kernel sends flushes; without one, every write is durable when it
   * completes. This holds for any backend: without a write cache, `flush` of a disk written in JavaScript is called
   * after each write.
   *
   * @defaultValue true for a file, a `lazy` disk with a cache, `faults`, `powercut`, and a disk with `flush`; false
   * otherwise
   */
  writeCache?: boolean
  /**
   * Announce that seeking is slow.
   *
   * @defaultValue false
   */
  rotational?: boolean
  /**
   * Accept discards.
   *
   * @defaultValue whether the backend supports them
   */
  discard?: boolean
  /**
   * The smallest area that a discard frees: a multiple of the block size, at most 1 GiB.
   *
   * @defaultValue from the backend
   */
  discardGranularity?: Size
  /**
   * The largest discard or write-zeroes request: a multiple of the block size, below 2 TiB.
   *
   * @defaultValue from the backend
   */
  maxDiscard?: Size
  /**
   * Keep the disk when its server ends, until another server takes it over:
   *
   * - `requeue`: requests in flight fail
   * - `reissue`: requests in flight are sent again. Only for a backend that may get the same write twice
   * - `fail`: all requests fail (kernel 6.13)
   *
   * Without `recovery`, the disk is removed. With it, a new Worker takes over if a Worker ended. After any other
   * failure, also of the process (killed, an uncaught exception, an exit status other than 0), the disk stays until
   * another process takes it over. Until then new requests wait, except with `fail`.
   *
   * @defaultValue none
   */
  recovery?: 'requeue' | 'reissue' | 'fail'
  /**
   * Which native threads serve the queues of a disk with a native backend:
   *
   * - `own`: one for each queue. This is fastest
   * - `shared`: at most four for all devices of a process with this value. An idle device then needs no thread, and a
   *   busy one is nearly as fast, as long as few devices are busy at a time
   *
   * @defaultValue 'own'
   */
  threads?: 'own' | 'shared'
  /**
   * How requests come from the driver, and answers go back:
   *
   * - `auto`: the faster one
   * - `per-io`: each request has its own driver command
   * - `batch`: one command for many requests (kernel 7.0). One command answers many, and one waits for all new ones.
   *   With `recovery` `'requeue'`, a live device with this transport cannot be handed over to another server
   *
   * {@link UblkDevice.choice} says what a device got and why, {@link autoChoices} what `auto` means on this machine.
   * The transport stays the same when another server takes over the device.
   *
   * @defaultValue 'auto'
   */
  transport?: 'auto' | Transport
  /**
   * Who copies the data of requests to the backend and back (the copy mode):
   *
   * - `auto`: the best that kernel, backend and user allow
   * - `copy`: the driver. It copies from or to the request's buffer. This works for all users and backends
   * - `user`: the server. It copies through `/dev/ublkcN`: for `memory` without a file, `nullDisk`, and disks written
   *   in JavaScript (kernel 6.5)
   * - `zero`: nobody, for `file`, and `lazy` with a cache (kernel 6.16). The file is read into, and written from, the
   *   request's own pages
   *
   * `user` and `zero` need CAP_SYS_ADMIN. The copy mode stays the same when another server takes over the device, and
   * the new backend must support it: a disk in a file that is served with `zero` cannot be recovered with a backend in
   * JavaScript.
   *
   * @defaultValue 'auto'
   */
  copy?: 'auto' | CopyMode
  /**
   * Files in memory, such as in `/dev/shm`, from which clients read and write the disk without a copy (kernel 7.1). If
   * a client maps such a file, and reads or writes the disk with direct I/O (`O_DIRECT`) from this mapping, the driver
   * does not copy the data. With an empty list, files can be added later ({@link ServedDevice.share}). Excludes
   * `recovery`. A disk written in JavaScript gets a copy of the data.
   *
   * @defaultValue none
   */
  share?: string[]
  /**
   * Threads that serve each queue of a disk with a native backend: 1 to 64 (more than one: kernel 6.16). No more than
   * `depth`. Use this for backends that need more parallelism than there are queues. With `transport` `per-io`, the
   * queue's tags are divided among the threads; with `batch`, a thread gets the requests that the others are too busy
   * for. More than one needs `threads: 'own'`.
   *
   * @defaultValue 1
   */
  threadsPerQueue?: number
  /**
   * Pin each queue's thread to the CPUs that send requests to that queue. It has an effect only for disks with several
   * queues and `threads: 'own'`. A thread is not pinned if the process may use none of these CPUs, or the kernel does
   * not report them. A polling thread would take the CPU from the process that sends the requests.
   *
   * @defaultValue true unless `poll` is set
   */
  affinity?: boolean
  /**
   * How long a queue's thread busy-polls for further requests before it sleeps, in microseconds: 0 to 1000. This saves
   * the wake-up time if requests follow each other closely, and uses CPU time meanwhile. Polling that finds nothing
   * becomes rare, and an idle disk always sleeps. It excludes `shared` threads, and has no effect if an event loop
   * serves the disk, or the thread may use only one CPU.
   *
   * @defaultValue 0
   */
  poll?: number
  /**
   * How the pages of the I/O buffers are allocated: `{ prefault, hugePages, lock }`. The buffers have
   * `queues × depth × maxIo` bytes. With `copy: 'zero'` there are no buffers.
   *
   * @defaultValue each on first use
   */
  buffers?: Pages
  /**
   * How long a request may take in an asynchronous backend before it fails with ETIMEDOUT, in milliseconds: at least
   * 1. Each request then gets its own buffer, which costs a copy.
   *
   * @defaultValue forever
   */
  requestTimeout?: number
  /**
   * How long a Worker with requests may make no progress before it is terminated, in milliseconds; 0: forever. It may
   * be in an endless loop, for example.
   *
   * @defaultValue 30000
   */
  stuckTimeout?: number
  /**
   * Let the kernel look for partitions when the disk appears (`false`: kernel 7.0).
   *
   * @defaultValue true
   */
  partitionScan?: boolean
  /**
   * How long to wait for the kernel's answer to one control command, in milliseconds: at least 1.
   *
   * @defaultValue 10000
   */
  timeout?: number
}

/** How to create a device; everything except `backend` has a default. */
export interface CreateOptions extends DeviceOptions {
  /**
   * Start serving at once. If false, call `start()` later.
   *
   * @defaultValue true
   */
  start?: boolean
  /**
   * Let other processes, such as the command line, query and control this server. This writes a record of the device
   * into the run directory, from which another process can recover it, and opens a socket there, through which other
   * processes can control this server: `ublk-ts stats`, `resize` or `upgrade`, or a handle of {@link UblkDevice.open}.
   * Both are removed together with the device. All options, including those of a Worker, must be representable in
   * JSON.
   *
   * The run directory is `$UBLK_TS_RUN_DIR`, else `/run/ublk-ts` for root, and `$XDG_RUNTIME_DIR/ublk-ts` for other
   * users, or `/tmp/ublk-ts-<uid>` if `$XDG_RUNTIME_DIR` is not set.
   *
   * @defaultValue false
   */
  record?: boolean | RecordOptions
  /** Aborts the creation, which then leaves nothing behind. It has no effect after the creation. */
  signal?: AbortSignal
}

/** The options that concern the server of a device: another server can give them anew. */
export type ServingOption =
  | 'backend'
  | 'observe'
  | 'threads'
  | 'threadsPerQueue'
  | 'affinity'
  | 'poll'
  | 'buffers'
  | 'requestTimeout'
  | 'stuckTimeout'
  | 'timeout'
  | 'record'
  | 'signal'
