import { checkOptions } from '../check.js'
import { formatSize, parseSize, type Size } from '../size.js'
import { checkDisk } from './below.js'
import { diskSize } from './disk-size.js'
import type { Kind } from './kind.js'
import type { StackableBackend } from './list.js'

/** A part of another disk; see {@link slice}. */
export interface SliceBackend {
  readonly kind: 'slice'
  /** The disk that it is a part of. */
  readonly disk: StackableBackend
  /** Where it begins there, in bytes. */
  readonly offset: number
  /** In bytes; undefined if it ends where that disk ends. */
  readonly size: number | undefined
}

/** Which part of the disk a {@link slice} covers. */
export interface SliceOptions {
  /**
   * Where it begins: bytes, or text such as `'1M'`; a multiple of the block size.
   *
   * @defaultValue 0
   */
  offset?: Size
  /**
   * Its size: bytes, or text such as `'16M'`; a multiple of the block size.
   *
   * @defaultValue to the end of the disk
   */
  size?: Size
}

/**
 * A part of another disk, such as a partition of an image. Its size is fixed.
 *
 * @param disk - A native backend except `lazy`.
 * @throws UblkError of kind `invalid` if an option is wrong. `UblkDevice.create` checks whether the part lies within the
 * disk.
 *
 * @example
 * ```ts
 * await UblkDevice.create({ backend: slice(file('disk.img'), { offset: '1M', size: '16M' }) })
 * ```
 */
export function slice(disk: StackableBackend, options: SliceOptions = {}): SliceBackend {
  checkDisk(disk, 'slice()')
  checkOptions<SliceOptions>(options, 'slice()', { offset: true, size: true })
  const { offset = 0, size } = options
  return {
    kind: 'slice',
    disk,
    offset: parseSize(offset, 'offset'),
    size: size === undefined ? undefined : diskSize(size),
  }
}

/** See {@link slice}. */
export const sliceKind: Kind<SliceBackend> = {
  name: 'slice',
  native: true,
  stackable: true,
  check: ({ kind: _, disk, ...options }) => slice(disk, options as SliceOptions),
  below: ({ disk }) => [disk],
  withBelow: (backend, [disk]) => ({ ...backend, disk: disk as StackableBackend }),
  toNative: ({ disk, offset, size }) => ({ disk, offset, size }),
  size: ({ size }) => size,
  label: ({ offset, size }) => {
    const from = `from ${formatSize(offset)}`
    return size === undefined ? from : `${formatSize(size)} ${from}`
  },
  commandLine: {
    more: [
      { flags: '--offset <size>', summary: 'where in it the disk begins, as with losetup' },
      { flags: '--sizelimit <size>', summary: 'how much of it the disk covers, as with losetup' },
    ],
    over: {
      main: ['--file'],
      make: (disk, { offset, sizelimit: size }) =>
        slice(disk as StackableBackend, { offset, size } as SliceOptions),
    },
  },
}
