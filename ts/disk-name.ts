import { invalid } from './errors.js'
import { MAX_ID } from './limits.js'
import { nameOf } from './user-values.js'

/** The directory of the links that are named by disks. */
export const NAMES = '/dev/ublk'

/** What udev takes for the name of a link, too. */
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/

/** What stands for a device by its number. */
const NUMBER = /^(?:(?:\/dev\/)?ublk[bc])?(\d+)$/

const RULE =
  'a name has 1 to 64 letters, digits, dots, hyphens and underscores, begins with a letter or digit, and is not like 0 or ublkb0'

/**
 * Checks the name of a disk.
 *
 * @throws UblkError of kind `invalid`.
 */
export function checkDiskName(name: unknown): asserts name is string {
  if (typeof name === 'string' && NAME.test(name) && !NUMBER.test(name)) return
  throw invalid(`the name of a disk cannot be ${nameOf(name)}`, RULE)
}

/**
 * Reads what stands for a device: `0`, `ublkb0` or `/dev/ublkb0` by number, `db` or `/dev/ublk/db` by name.
 *
 * @throws UblkError of kind `invalid`.
 */
export function parseDevice(text: string): number | { readonly name: string } {
  const id = Number(NUMBER.exec(text)?.[1] ?? Number.NaN)
  if (id <= MAX_ID) return id
  const name = text.startsWith(`${NAMES}/`) ? text.slice(NAMES.length + 1) : text
  if (Number.isNaN(id) && NAME.test(name) && !NUMBER.test(name)) return { name }
  throw invalid(
    `${nameOf(text)} is not a ublk device`,
    'give a number such as 0, a path such as /dev/ublkb0, or the name of a disk',
  )
}
