import { checkFlag, checkOptions } from './check.js'
import { invalid } from './errors.js'
import type { LazyBackend } from './lazy.js'
import { type Pages, pagesOf } from './pages.js'
import { pathOf } from './path.js'
import type { BackendContext, JsBackend } from './runtime/js-backend.js'
import { parseSize, type Size } from './size.js'
import { nameOf } from './user-values.js'

/** A disk in memory; see {@link memory}. */
export interface MemoryBackend {
  readonly kind: 'memory'
  /** In bytes. */
  readonly size: number
  /** The file that holds its bytes, if it is one. */
  readonly file: string | undefined
  /** How its memory is had, if that is not a file. */
  readonly pages: Pages | undefined
  /** False if that file is not claimed. */
  readonly exclusive: false | undefined
}

/** A disk that keeps nothing; see {@link nullDisk}. */
export interface NullBackend {
  readonly kind: 'null'
  /** In bytes. */
  readonly size: number
}

/** A disk in a file or on another block device; see {@link file}. */
export interface FileBackend {
  readonly kind: 'file'
  /** Of the regular file or block device. */
  readonly path: string
  /** Whether it bypasses the page cache. */
  readonly direct: boolean
  /** False if it is not claimed. */
  readonly exclusive: false | undefined
}

/** A disk written in JavaScript that is served by Workers; see {@link worker}. */
export interface WorkerBackend {
  readonly kind: 'worker'
  /** Of the module whose default export makes the backend. */
  readonly url: string
  /** For its factory; copied to each worker as `postMessage` copies. Or a function that makes them. */
  readonly options: unknown
}

/** What stores a disk's bytes natively. Made by {@link memory}, {@link nullDisk}, {@link file} or {@link lazy}. */
export type NativeBackend = MemoryBackend | NullBackend | FileBackend | LazyBackend

/**
 * What stores a disk's bytes: native, a {@link worker}, or an object with the methods of a disk, which is
 * served from the event loop of the thread that creates the device.
 */
// Of a native one only the kind, or the compiler takes an object with a size for one, and says so of a
// disk without `read`.
export type Backend = Pick<NativeBackend, 'kind'> | WorkerBackend | JsBackend

/** How {@link file} opens its file. */
export interface FileOptions {
  /**
   * Bypass the page cache (O_DIRECT). The file system must support it, and the disk's block size
   * must be a multiple of its alignment.
   *
   * @defaultValue false
   */
  direct?: boolean
  /**
   * Claim the file while the disk is served: a regular file with a lock (OFD, `fcntl(2)`), a block device with an
   * exclusive open, which also prevents mounting it. Read-only disks can share a file. `false` claims nothing, and
   * serves the file even if another process uses it: for devices that are meant to be shared, such as one with a
   * cluster file system.
   *
   * Locks are advisory: they do not keep out programs that do not lock the file, such as `mkfs` or `losetup`. A file
   * that is already attached to a loop device is refused.
   *
   * @defaultValue true
   */
  exclusive?: boolean
}

/** Where {@link memory} keeps a disk's bytes. */
export interface MemoryOptions {
  /**
   * A file in a memory file system, such as one in `/dev/shm`: another process can take the disk over with what is on
   * it. It is created if it does not exist, keeps its bytes if it does, and is not removed. An existing file must
   * belong to this user and be writable by no other user.
   *
   * @defaultValue memory of this process, which ends with it
   */
  file?: string
  /**
   * How the pages of this process's memory are had. What is discarded is given back in any case.
   *
   * @defaultValue each with the first write to it
   */
  pages?: Pages
  /**
   * Lock the file while the disk is served, as {@link FileOptions.exclusive} says.
   *
   * @defaultValue true
   */
  exclusive?: boolean
}

/**
 * A disk in this process's memory. It takes memory only where it has been written, and gives it back
 * on discard and write-zeroes. Its contents are gone when the device is deleted, unless they are in a file.
 *
 * @param size - Bytes, or text such as `'16M'`; a multiple of the block size, below 8 EiB.
 * @throws UblkError of kind `invalid` if the size is not one.
 *
 * @example
 * ```ts
 * await UblkDevice.create({ backend: memory('16M') })
 * ```
 */
export function memory(size: Size, options: MemoryOptions = {}): MemoryBackend {
  checkOptions<MemoryOptions>(options, 'memory()', { file: true, pages: true, exclusive: true })
  const { file, pages, exclusive } = options
  if (file !== undefined && (typeof file !== 'string' || file === '')) {
    throw invalid('the file of the memory is no path', "use one such as '/dev/shm/disk'")
  }
  if (file !== undefined && pages !== undefined) {
    throw invalid('pages are for memory of this process, not for a file', 'leave out one of the two')
  }
  return {
    kind: 'memory',
    size: diskSize(size),
    file,
    pages: pagesOf(pages, 'pages'),
    exclusive: exclusiveOf(exclusive),
  }
}

/**
 * A disk that forgets what is written; reads give zeroes. It is for measuring the cost of the path, not
 * for data.
 *
 * @param size - Bytes, or text such as `'1T'`; a multiple of the block size, below 8 EiB.
 * @throws UblkError of kind `invalid` if the size is not one.
 */
export function nullDisk(size: Size): NullBackend {
  return { kind: 'null', size: diskSize(size) }
}

/**
 * A disk in an existing regular file or on another block device, as large as that is. Flush reaches
 * stable storage (fdatasync); discard punches holes.
 *
 * @param path - A path, or a `file:` URL.
 * @param options - How to open it.
 * @throws UblkError of kind `invalid` if the path is empty. Whether the file exists and is fit is
 * found out by `UblkDevice.create`, which rejects with kind `backend`, or `busy` if another process uses it.
 */
export function file(path: string | URL, options: FileOptions = {}): FileBackend {
  checkOptions<FileOptions>(options, 'file()', { direct: true, exclusive: true })
  checkFlag(options.direct, 'direct')
  const plain = pathOf(path, 'the path of the file')
  const { direct = false, exclusive } = options
  return { kind: 'file', path: plain, direct, exclusive: exclusiveOf(exclusive) }
}

/**
 * A disk written in JavaScript, served by a Worker for each of its queues: the fast way. The worker's thread
 * sleeps in the kernel until there are requests, so a synchronous backend costs no event loop and no
 * promise. A backend that turns out to be asynchronous is served from the worker's event loop.
 *
 * @param url - Of a module whose default export is a {@link defineBackend} factory. TypeScript works where
 * Node runs it, or with the loader that this process was started with.
 * @param options - For the factory, copied to each worker as `postMessage` copies: SharedArrayBuffers in it are
 * shared by all. Or a function that is called on this thread for each worker that starts, and makes them: a
 * `MessagePort` among the properties of what it returns goes to that worker.
 *
 * @example
 * ```ts
 * worker(new URL('./my-disk.js', import.meta.url), { size: 2 ** 30 })
 * ```
 */
export function worker<Options>(
  url: URL | string,
  options?: Options | ((context: BackendContext) => Options),
): WorkerBackend {
  const text = url instanceof URL ? url.href : url
  if (typeof text !== 'string' || !URL.canParse(text)) {
    throw invalid(`${text === '' ? 'the url' : nameOf(text)} is no URL`, WORKER_HINT)
  }
  return { kind: 'worker', url: text, options }
}

/** Whether a backend is native. */
export function isNative(backend: Backend): backend is NativeBackend {
  const kind = (backend as Partial<NativeBackend> | null)?.kind
  return kind === 'memory' || kind === 'null' || kind === 'file' || kind === 'lazy'
}

const WORKER_HINT = "use new URL('./disk.js', import.meta.url)"

/** Only a value other than the default is kept: a record then reads the same as one of an earlier version. */
export function exclusiveOf(exclusive: boolean | undefined): false | undefined {
  checkFlag(exclusive, 'exclusive')
  return exclusive === false ? false : undefined
}

function diskSize(size: Size): number {
  const bytes = parseSize(size)
  if (bytes === 0) throw invalid('size 0 is too small', 'a disk has at least one block')
  return bytes
}
