import { resolve } from 'node:path'
import { checkFlag, checkOptions } from '../check.js'
import { pathOf } from '../path.js'
import { exclusiveOf } from './claim.js'
import type { Flags, Kind } from './kind.js'

/** A disk in a file or on another block device; see {@link file}. */
export interface FileBackend {
  readonly kind: 'file'
  /** The path of the regular file or block device. */
  readonly path: string
  /** Whether it bypasses the page cache. */
  readonly direct: boolean
  /** False if it is not claimed. */
  readonly exclusive: false | undefined
}

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

/**
 * A disk in an existing regular file or on another block device, with the same size. Flush makes data durable
 * (fdatasync); discard punches holes.
 *
 * @param path - A path, or a `file:` URL.
 * @param options - How to open it.
 * @throws UblkError of kind `invalid` if the path is empty. `UblkDevice.create` opens the file, and rejects with kind
 * `backend` if that fails, or `busy` if another process uses it.
 */
export function file(path: string | URL, options: FileOptions = {}): FileBackend {
  checkOptions<FileOptions>(options, 'file()', { direct: true, exclusive: true })
  checkFlag(options.direct, 'direct')
  const plain = pathOf(path, 'the path of the file')
  const { direct = false, exclusive } = options
  return { kind: 'file', path: plain, direct, exclusive: exclusiveOf(exclusive) }
}

/** The file of `create --file PATH` and similar options. */
export function fileOfFlags(path: string, { direct, exclusive }: Flags): FileBackend {
  const options = { direct: direct === true, exclusive: exclusive !== false }
  return file(path === '' ? '' : resolve(path), options) // A server that takes it over may be in another directory.
}

/** The files of a list such as `a.img,b.img`. */
export function filesOfFlags(paths: string, flags: Flags): FileBackend[] {
  return paths.split(',').map(path => fileOfFlags(path, flags))
}

/** See {@link file}. */
export const fileKind: Kind<FileBackend> = {
  name: 'file',
  native: true,
  stackable: true,
  check: ({ kind: _, path, ...options }) => file(path, options as FileOptions),
  toNative: ({ path, direct, exclusive }) => ({ path, direct, exclusive }),
  toRecord: backend => ({ ...backend, path: resolve(backend.path) }),
  withoutClaim: backend => ({ ...backend, exclusive: false }),
  paths: ({ path }) => [path],
  label: ({ path }) => path,
  commandLine: {
    mains: [
      {
        flags: '--file <path>',
        summary: 'a disk in an existing file or on another block device',
        make: fileOfFlags,
      },
    ],
    more: [
      { flags: '--direct', summary: 'bypass the page cache' },
      { flags: '--no-exclusive', summary: 'serve it even if it is in use, and do not lock it' },
    ],
  },
}
