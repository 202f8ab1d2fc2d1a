import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { checkOptions } from '../check.js'
import { invalid } from '../errors.js'
import { pathOf } from '../path.js'
import { formatSize, type Size } from '../size.js'
import { checkDisk } from './below.js'
import { diskSize } from './disk-size.js'
import type { Kind } from './kind.js'
import type { LazyBackend } from './lazy.js'
import type { StackableBackend } from './list.js'
import { isScratchFile, scratchFile } from './scratch-file.js'

/** What an overlay reads from where nothing was written. */
export type BaseBackend = StackableBackend | LazyBackend

/** A disk over a base that stays as it is; see {@link overlay}. */
export interface OverlayBackend {
  readonly kind: 'overlay'
  /** The disk that it reads from where nothing was written; null if its upper needs none. */
  readonly base: BaseBackend | null
  /** The file with what was written; undefined if that is in memory. */
  readonly upper: string | undefined
  /** The file of the snapshot over which the upper was made. */
  readonly snapshot: string | undefined
  /** In bytes; undefined: as the upper says, or the base. */
  readonly size: number | undefined
}

/** Where an {@link overlay} keeps what is written, and its size. */
export interface OverlayOptions {
  /**
   * The sparse file for what is written, created if it does not exist. Other users cannot read it. It belongs to the base
   * with which it was created: another base, or one that was changed since, is refused. It serves one disk at a time.
   *
   * @defaultValue in memory; it is lost when the device is deleted
   */
  upper?: string | URL | undefined
  /**
   * The file of a {@link UblkDevice.snapshot | snapshot} of another disk with the same base: the disk begins with its
   * content. The upper is created over it, in the same directory; one that exists must have been. The snapshot stays as it is, and
   * any number of disks can be over it.
   *
   * @defaultValue the disk begins with the content of the base
   */
  snapshot?: string | URL | undefined
  /**
   * The size of the disk: bytes, or text such as `'20G'`; a multiple of the block size. Beyond its base the disk reads as
   * zeroes.
   *
   * @defaultValue that of an existing upper, or else that of the base
   */
  size?: Size | undefined
}

/**
 * A disk that begins with the content of another one, its base, and keeps what is written elsewhere: in a sparse file, or in
 * memory. The base is opened for reading only, so that many disks can have the same base at a time, and share its page cache.
 * A write moves only its own data: there is no copy of larger parts. A discard frees the space of what was written, and
 * the range reads as zeroes.
 *
 * Flush makes what was written durable. After a power failure the disk has the data as of the last flush, or newer.
 *
 * @param base - A native backend, such as `file('base.img')`; also `lazy`, which serves one disk at a time if it has a cache.
 * Null for the upper of a disk that was {@link UblkDevice.flatten | flattened}.
 * @param options - Where to keep what is written.
 * @throws UblkError of kind `invalid` if an option is wrong. `UblkDevice.create` opens base and upper, and rejects with kind
 * `backend` if that fails or they do not belong together, or `busy` if another process uses the upper.
 *
 * @example
 * ```ts
 * await UblkDevice.create({ backend: overlay(file('base.img'), { upper: 'vm1.cow' }) })
 * ```
 */
export function overlay(base: BaseBackend | null, options: OverlayOptions = {}): OverlayBackend {
  if (base !== null) checkDisk(base, 'overlay()')
  checkOptions<OverlayOptions>(options, 'overlay()', { upper: true, snapshot: true, size: true })
  const { upper, snapshot, size } = options
  if (snapshot !== undefined && upper === undefined) {
    throw invalid(
      'an overlay over a snapshot needs an upper in a file',
      'name one in the directory of the snapshot',
    )
  }
  if (base === null && upper === undefined) {
    throw invalid('an overlay without a base needs an upper', 'name the upper of a disk that was flattened')
  }
  return {
    kind: 'overlay',
    base,
    upper: upper === undefined ? undefined : pathOf(upper, 'the path of the upper'),
    snapshot: snapshot === undefined ? undefined : pathOf(snapshot, 'the path of the snapshot'),
    size: size === undefined ? undefined : diskSize(size),
  }
}

/** The upper of `--overlay`. */
function upperOfFlag(upper: string): string | undefined {
  return upper === 'memory' ? undefined : upper === '' ? '' : resolve(upper)
}

/** See {@link overlay}. */
export const overlayKind: Kind<OverlayBackend> = {
  name: 'overlay',
  native: true,
  stackable: true,
  takesLazy: true,
  check: ({ kind: _, base, ...options }) => overlay(base, options),
  below: ({ base }) => (base === null ? [] : [base]),
  withBelow: (backend, [base = null]) => ({ ...backend, base: base as BaseBackend | null }),
  toNative: ({ base, upper, snapshot, size }) => ({ base: base ?? undefined, upper, snapshot, size }),
  toRecord: ({ upper, snapshot, ...backend }) => ({
    ...backend,
    upper: upper === undefined ? undefined : resolve(upper),
    snapshot: snapshot === undefined ? undefined : resolve(snapshot),
  }),
  withoutUnneeded: async backend => {
    // An upper that exists is over the snapshot already.
    const file = [backend.upper, backend.snapshot].find(path => path !== undefined && existsSync(path))
    if (file === undefined || backend.base === null) return backend
    // Only here: the command line's help is made where there is no native part.
    const { upperNeedsBase } = await import('#binding')
    return upperNeedsBase(file) ? backend : { ...backend, base: null }
  },
  size: ({ size }) => size,
  ofSize: (backend, size) => ({ ...backend, size }),
  paths: ({ upper }) => (upper === undefined ? [] : [upper]),
  memory: ({ upper }) => (upper === undefined ? null : isScratchFile(upper) ? upper : undefined),
  lasting: (backend, made) => {
    if (backend.upper !== undefined) return backend
    const upper = scratchFile()
    made(upper)
    return { ...backend, upper }
  },
  lastingIn: 'upper',
  label: ({ upper, size }) => {
    const where = upper ?? 'in memory'
    return size === undefined ? where : `${where}, ${formatSize(size)}`
  },
  commandLine: {
    mains: [
      {
        flags: '--upper <path>',
        summary: 'the upper of an overlay that was flattened: it needs no base',
        make: upper => overlay(null, { upper: resolve(upper) }),
      },
    ],
    more: [
      {
        flags: '--overlay <path>',
        summary:
          'leave it as it is, and keep what is written in this file, or in memory: `memory` (./memory is a file)',
      },
      {
        flags: '--snapshot <path>',
        summary: 'the overlay begins with the content of this snapshot, in the directory of its file',
      },
      { flags: '--overlay-size <size>', summary: 'the size of the disk over it (default: as large)' },
    ],
    over: {
      main: ['--file', '--qcow2', '--lazy', '--concat', '--stripe', '--mem', '--null', '--upper'],
      make: (base, { overlay: upper, snapshot, overlaySize: size }) => {
        if (upper === undefined) {
          throw invalid(`--${snapshot === undefined ? 'overlay-size' : 'snapshot'} is only for --overlay`)
        }
        return overlay(base as BaseBackend, {
          upper: upperOfFlag(upper as string),
          snapshot: snapshot === undefined ? undefined : resolve(snapshot as string),
          size: size as Size,
        })
      },
    },
  },
}
