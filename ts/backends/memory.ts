import { resolve } from 'node:path'
import { checkOptions } from '../check.js'
import { invalid } from '../errors.js'
import { type Pages, pagesOf, parsePages } from '../pages.js'
import type { Size } from '../size.js'
import { exclusiveOf } from './claim.js'
import { diskSize } from './disk-size.js'
import type { FileOptions } from './file.js'
import type { Kind } from './kind.js'
import { scratchFile } from './scratch-file.js'

/** A disk in memory; see {@link memory}. */
export interface MemoryBackend {
  readonly kind: 'memory'
  /** In bytes. */
  readonly size: number
  /** The file that holds its data, if there is one. */
  readonly file: string | undefined
  /** How its memory is allocated, if that is not a file. */
  readonly pages: Pages | undefined
  /** False if that file is not claimed. */
  readonly exclusive: false | undefined
}

/** Where {@link memory} keeps a disk's data. */
export interface MemoryOptions {
  /**
   * A file in a memory file system, such as one in `/dev/shm`: another process can take over the disk with its data. The
   * file is created if it does not exist; an existing file keeps its data. It is never removed. An existing file must
   * belong to this user and be writable by no other user.
   *
   * @defaultValue memory of this process, which is lost when the process ends
   */
  file?: string
  /**
   * How the pages of this process's memory are allocated. Discarded pages are always freed.
   *
   * @defaultValue each on the first write to it
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
 * A disk in this process's memory. It uses memory only for parts that were written; discard and write-zeroes free it. Its
 * contents are lost when the device is deleted, unless they are in a file.
 *
 * @param size - Bytes, or text such as `'16M'`; a multiple of the block size, below 8 EiB.
 * @throws UblkError of kind `invalid` if the size is not valid.
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

/** See {@link memory}. */
export const memoryKind: Kind<MemoryBackend> = {
  name: 'memory',
  native: true,
  stackable: true,
  check: ({ kind: _, size, ...options }) => memory(size, options as MemoryOptions),
  toNative: ({ size, file: path, pages, exclusive }) => ({ size, path, pages, exclusive }),
  toRecord: backend => (backend.file === undefined ? backend : { ...backend, file: resolve(backend.file) }),
  size: ({ size }) => size,
  ofSize: (backend, size) => ({ ...backend, size }),
  withoutClaim: backend => (backend.file === undefined ? backend : { ...backend, exclusive: false }),
  paths: ({ file }) => (file === undefined ? [] : [file]),
  memory: ({ file }) => file ?? null,
  lasting: (backend, made) => {
    if (backend.file !== undefined) return backend
    const file = scratchFile()
    const lasting = memoryKind.check({ ...backend, file })
    made(file)
    return lasting
  },
  lastingIn: 'file',
  label: ({ file }) => file ?? '',
  commandLine: {
    mains: [
      {
        flags: '--mem <size>',
        summary: 'a disk in memory',
        make: (size, { memPages }) => memory(size, { pages: memPages as Pages | undefined } as MemoryOptions),
      },
    ],
    more: [
      {
        flags: '--mem-pages <how>',
        summary: "page options for the disk's own memory, as --buffers; not if it outlives its server",
        parse: parsePages,
      },
    ],
  },
}
