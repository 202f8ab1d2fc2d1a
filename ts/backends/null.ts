import { checkOptions } from '../check.js'
import type { Size } from '../size.js'
import { diskSize } from './disk-size.js'
import type { Kind } from './kind.js'

/** A disk that discards all data; see {@link nullDisk}. */
export interface NullBackend {
  readonly kind: 'null'
  /** In bytes. */
  readonly size: number
}

/**
 * A disk that discards writes and reads as zeroes. It is for measuring the cost of the I/O path, not for data.
 *
 * @param size - Bytes, or text such as `'1T'`; a multiple of the block size, below 8 EiB.
 * @throws UblkError of kind `invalid` if the size is not valid.
 */
export function nullDisk(size: Size): NullBackend {
  return { kind: 'null', size: diskSize(size) }
}

/** See {@link nullDisk}. */
export const nullKind: Kind<NullBackend> = {
  name: 'null',
  native: true,
  stackable: true,
  check: ({ kind: _, size, ...others }) => {
    checkOptions<object>(others, 'nullDisk()', {})
    return nullDisk(size)
  },
  toNative: ({ size }) => ({ size }),
  size: ({ size }) => size,
  ofSize: (backend, size) => ({ ...backend, size }),
  label: () => '',
  commandLine: {
    mains: [
      {
        flags: '--null <size>',
        summary: 'a disk that discards all data, to measure with',
        make: nullDisk,
      },
    ],
  },
}
