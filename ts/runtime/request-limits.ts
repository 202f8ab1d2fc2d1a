import { nearest } from '../check.js'
import { invalid, wrongType } from '../errors.js'
import { parseSize, type Size } from '../size.js'
import { isArray, nameOf } from '../user-values.js'

/** Limits of the requests that a disk gets. The kernel splits requests that exceed them. */
export interface RequestLimits {
  /** No read or write crosses a multiple of this, such as the size of an object or of an erase block: whole blocks. */
  readonly chunk?: Size
  /** Requests of this size, or of a multiple, are the fastest (`optimal_io_size`). */
  readonly optimalIo?: Size
  /** The most parts of a request's memory that are contiguous each (Linux 6.16): 1 to 65535. */
  readonly maxSegments?: number
  /** The most bytes in such a part (Linux 6.16): at least 4096. */
  readonly maxSegmentSize?: Size
  /** No such part crosses a multiple of this (Linux 6.16): a power of two, at least 4096. */
  readonly segmentBoundary?: Size
}

/** The same in bytes. */
export type LimitsInBytes = { readonly [Name in keyof RequestLimits]?: number }

const NAMES = ['chunk', 'optimalIo', 'maxSegments', 'maxSegmentSize', 'segmentBoundary'] as const
const LARGEST: Readonly<Record<(typeof NAMES)[number], number>> = {
  chunk: 2 ** 31,
  optimalIo: 2 ** 28,
  maxSegments: 65535,
  maxSegmentSize: 2 ** 32 - 1,
  segmentBoundary: 2 ** 32,
}

/**
 * Checks the limits of a backend.
 *
 * @param limits - The backend's `limits`, of which no property is a getter.
 * @throws UblkError of kind `invalid`.
 */
export function limitsInBytes(limits: unknown, blockSize: number): LimitsInBytes | undefined {
  if (limits === undefined) return
  if (typeof limits !== 'object' || limits === null || isArray(limits)) {
    throw wrongType(`the backend's limits are ${nameOf(limits)}, not an object`, `such as { chunk: '1M' }`)
  }
  const bytes: Record<string, number> = {}
  for (const [name, value] of Object.entries(limits)) {
    if (value === undefined) continue
    const known = NAMES.find(each => each === name)
    if (known === undefined) {
      const near = nearest(name, NAMES)
      throw invalid(
        `the backend's limits have no ${nameOf(name)}`,
        near === undefined ? `they are ${NAMES.join(', ')}` : `did you mean ${near}?`,
      )
    }
    bytes[known] = limit(known, value as Size, blockSize)
  }
  return bytes
}

function limit(name: (typeof NAMES)[number], value: Size, blockSize: number): number {
  const what = `the backend's ${name}`
  const bytes = parseSize(value, what)
  const [most, segment] = [LARGEST[name], name === 'maxSegmentSize' || name === 'segmentBoundary']
  const least = name === 'maxSegments' ? 1 : segment ? 4096 : blockSize
  if (bytes < least || bytes > most) throw invalid(`${what} must be from ${least} to ${most}, not ${value}`)
  if (name === 'chunk' && bytes % blockSize !== 0) {
    throw invalid(`${what} must be a multiple of the block size ${blockSize}, not ${value}`)
  }
  if (name === 'segmentBoundary' && !Number.isInteger(Math.log2(bytes))) {
    throw invalid(`${what} must be a power of two, not ${value}`)
  }
  return bytes
}
