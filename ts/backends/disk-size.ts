import { invalid } from '../errors.js'
import { parseSize, type Size } from '../size.js'

/** Reads the size of a disk. */
export function diskSize(size: Size): number {
  const bytes = parseSize(size)
  if (bytes === 0) throw invalid('size 0 is too small', 'a disk has at least one block')
  return bytes
}
