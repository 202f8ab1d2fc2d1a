import { fileURLToPath } from 'node:url'
import { invalid } from './errors.js'
import { parseSize, type Size } from './size.js'

/** A disk in memory; see {@link memory}. */
export interface MemoryBackend {
  readonly kind: 'memory'
  /** In bytes. */
  readonly size: number
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
}

/** What stores a disk's bytes. Made by {@link memory}, {@link nullDisk} or {@link file}. */
export type Backend = MemoryBackend | NullBackend | FileBackend

/** How {@link file} opens its file. */
export interface FileOptions {
  /**
   * Bypass the page cache (O_DIRECT). The file system must support it, and the disk's block size
   * must be a multiple of its alignment.
   *
   * @defaultValue false
   */
  direct?: boolean
}

/**
 * A disk in this process's memory. It takes memory only where it has been written, and gives it back
 * on discard and write-zeroes. Its contents are gone when the device is deleted.
 *
 * @param size - Bytes, or text such as `'16M'`; a multiple of the block size, below 8 EiB.
 * @throws UblkError of kind `invalid` if the size is not one.
 *
 * @example
 * ```ts
 * await UblkDevice.create({ backend: memory('16M') })
 * ```
 */
export function memory(size: Size): MemoryBackend {
  return { kind: 'memory', size: diskSize(size) }
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
 * found out by `UblkDevice.create`, which rejects with kind `backend`.
 */
export function file(path: string | URL, options: FileOptions = {}): FileBackend {
  const plain = path instanceof URL ? fileURLToPath(path) : path
  if (typeof plain !== 'string' || plain === '') throw invalid('the path of the file is empty')
  return { kind: 'file', path: plain, direct: options.direct ?? false }
}

function diskSize(size: Size): number {
  const bytes = parseSize(size)
  if (bytes === 0) throw invalid('size 0 is too small', 'a disk has at least one block')
  return bytes
}
