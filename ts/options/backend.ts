import type { Backend } from '../backends/list.js'
import { wrongType } from '../errors.js'
import { isArray, nameOf } from '../user-values.js'

const HINT =
  "make one with memory('16M'), nullDisk('1T'), file('disk.img'), lazy({ size, fetch }) or worker(url), " +
  'or pass an object with the methods of a disk'

/**
 * Checks that a value may be a backend; its server checks the rest.
 *
 * @throws UblkError of kind `invalid`.
 */
export function checkBackend(backend: unknown): asserts backend is Backend {
  if (typeof backend === 'object' && backend !== null && !isArray(backend)) return
  throw wrongType(`backend must be a backend, not ${nameOf(backend)}`, HINT)
}
