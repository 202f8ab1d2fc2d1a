/** Checks that backends composed of others have in common. */
import { invalid, wrongType } from '../errors.js'
import { isArray, nameOf } from '../user-values.js'
import type { StackableBackend } from './list.js'

/**
 * Checks a backend that is a part of another one; its fields are checked later.
 *
 * @param what - The function that takes it, such as `slice()`.
 * @throws UblkError of kind `invalid`.
 */
export function checkDisk(disk: unknown, what: string): asserts disk is StackableBackend {
  if (typeof disk === 'object' && disk !== null && !isArray(disk)) return
  throw wrongType(`${what} takes a backend, not ${nameOf(disk)}`, "such as file('disk.img')")
}

/**
 * Checks a list of such backends.
 *
 * @throws UblkError of kind `invalid`.
 */
export function checkDisks(disks: unknown, what: string): asserts disks is readonly StackableBackend[] {
  const hint = "such as [file('a.img'), file('b.img')]"
  if (!Array.isArray(disks)) throw wrongType(`${what} takes a list of backends, not ${nameOf(disks)}`, hint)
  if (disks.length === 0) throw invalid(`${what} takes one or more backends`, hint)
  for (const disk of disks) checkDisk(disk, what)
}
