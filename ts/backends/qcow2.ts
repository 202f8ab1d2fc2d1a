import { resolve } from 'node:path'
import { checkOptions } from '../check.js'
import { invalid } from '../errors.js'
import { pathOf } from '../path.js'
import { exclusiveOf } from './claim.js'
import type { Kind } from './kind.js'

/** A disk in a qcow2 image; see {@link qcow2}. */
export interface Qcow2Backend {
  readonly kind: 'qcow2'
  /** The path of the image. */
  readonly path: string
  /** The files that may be opened as backing files, and the directories below which any may. */
  readonly backing: readonly string[]
  /** False if its files are not claimed. */
  readonly exclusive: false | undefined
}

/** How {@link qcow2} opens an image. */
export interface Qcow2Options {
  /**
   * The backing files that may be opened: their paths, or directories below which any may. An image names its backing
   * file itself, so one from elsewhere could name any file of this machine: none is opened unless it is allowed here.
   *
   * @defaultValue none
   */
  backing?: string | readonly string[]
  /**
   * Claim the image and its backing files while the disk is served, as {@link file} does: other disks can use the same
   * backing files, but nobody can write to them.
   *
   * @defaultValue true
   */
  exclusive?: boolean
}

/**
 * A disk in an existing qcow2 image, QEMU's format, of version 2 or 3. With `readOnly` the image is not changed.
 *
 * The image must be closed, as `qemu-img` and QEMU leave it, and state the format of its backing file, `raw` or `qcow2`.
 * Images with extended L2 entries, encryption, an external data file, or compression other than zlib are refused, and those
 * with internal snapshots unless the disk is `readOnly`: `qemu-nbd` serves them. Its size is fixed.
 *
 * Flush makes data durable, then the image's reference counts and tables: a power cut leaves an image without errors, in
 * which clusters may be leaked. With `recovery`, tables are written before a write is answered, so that completed writes
 * survive the server; without it, a server that is killed loses writes that were not flushed.
 *
 * @param path - A path, or a `file:` URL.
 * @param options - How to open it.
 * @throws UblkError of kind `invalid` if a path is empty. `UblkDevice.create` opens the image, and rejects with kind
 * `backend` if that fails, `unsupported` if the image needs what is not supported, or `busy` if another process uses it.
 *
 * @example
 * ```ts
 * await UblkDevice.create({ backend: qcow2('vm.qcow2', { backing: 'images' }) })
 * ```
 */
export function qcow2(path: string | URL, options: Qcow2Options = {}): Qcow2Backend {
  checkOptions<Qcow2Options>(options, 'qcow2()', { backing: true, exclusive: true })
  const plain = pathOf(path, 'the path of the image')
  const { backing = [], exclusive } = options
  const list = typeof backing === 'string' ? [backing] : backing
  if (!Array.isArray(list)) throw invalid('backing must be a path, or a list of paths')
  const paths = list.map(allowed => pathOf(allowed, 'the path of a backing file'))
  return { kind: 'qcow2', path: plain, backing: paths, exclusive: exclusiveOf(exclusive) }
}

/** See {@link qcow2}. */
export const qcow2Kind: Kind<Qcow2Backend> = {
  name: 'qcow2',
  native: true,
  stackable: true,
  check: ({ kind: _, path, ...options }) => qcow2(path, options as Qcow2Options),
  toNative: ({ path, backing, exclusive }) => ({ path, backing, exclusive }),
  // A server that takes it over may be in another directory.
  toRecord: backend => ({
    ...backend,
    path: resolve(backend.path),
    backing: backend.backing.map(path => resolve(path)),
  }),
  withoutClaim: backend => ({ ...backend, exclusive: false }),
  paths: ({ path }) => [path],
  label: ({ path }) => path,
  commandLine: {
    mains: [
      {
        flags: '--qcow2 <path>',
        summary: 'a disk in an existing qcow2 image',
        make: (path, { backing, exclusive }) =>
          qcow2(path === '' ? '' : resolve(path), {
            backing:
              backing === undefined ? [] : (backing as string).split(',').map(allowed => resolve(allowed)),
            exclusive: exclusive !== false,
          }),
      },
    ],
    more: [
      {
        flags: '--backing <paths>',
        summary: 'the backing files that may be opened, or directories of them, separated by commas',
      },
    ],
    also: ['exclusive'],
  },
}
