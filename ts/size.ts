import { invalid, wrongType } from './errors.js'
import { nameOf } from './user-values.js'

/**
 * A number of bytes, or text in the format of `losetup` and `truncate`: plain bytes, or a whole number with a unit.
 * `K M G T P E` and `KiB MiB …` are powers of 1024; `KB MB …` are powers of 1000.
 */
export type Size = number | string

const UNITS = 'KMGTPE'
const LIMIT = 2n ** 63n
/** The limit has 19 digits; a much longer text is not a size. */
const LONGEST = 64
const HINT = 'use bytes or a whole number with a unit, such as 512, 64K, 16M, 16MB or 2GiB'

/**
 * Reads a size; `what` names it in errors.
 *
 * @throws UblkError of kind `invalid` unless it is a whole number of bytes from 0 to below 8 EiB.
 */
export function parseSize(size: Size, what = 'size'): number {
  if (typeof size !== 'number' && typeof size !== 'string') {
    throw wrongType(`${what} must be a number of bytes or text, not ${nameOf(size)}`, HINT)
  }
  const text = typeof size === 'number' ? integerText(size) : size.trim()
  const match = text.length > LONGEST ? null : /^(\d+)(?:([kmgtpe])(ib|b)?|b)?$/i.exec(text)
  if (!match) throw refuse(size, text, what)
  const [, digits = '', unit, suffix] = match
  const base = suffix?.toLowerCase() === 'b' ? 1000n : 1024n
  const power = unit === undefined ? 0 : UNITS.indexOf(unit.toUpperCase()) + 1
  const bytes = BigInt(digits) * base ** BigInt(power)
  if (bytes >= LIMIT) throw invalid(`${what} ${size} is too large`, 'the limit is just below 8 EiB')
  if (BigInt(Number(bytes)) !== bytes) {
    throw invalid(`${what} ${size} is too fine for its magnitude`, 'use a multiple of 1024')
  }
  return Number(bytes)
}

/** `1e21` and above would print with an exponent; as an integer they print in full. */
function integerText(size: number): string {
  return Number.isInteger(size) ? BigInt(size).toString() : String(size)
}

function refuse(size: Size, text: string, what: string): Error {
  if (/^-\d/.test(text)) return invalid(`${what} ${size} is negative`, HINT)
  if (/^\d+\.\d+/.test(text)) return invalid(`${what} ${size} has a fraction`, HINT)
  return invalid(`${what} ${nameOf(String(size))} is not understood`, HINT)
}

/** Writes a size as `lsblk` does: the largest fitting unit, at most one decimal. */
export function formatSize(bytes: number): string {
  let value = bytes
  let power = 0
  while (value >= 1024 && power < UNITS.length) {
    value /= 1024
    power++
  }
  return `${Number(value.toFixed(1))}${power === 0 ? 'B' : UNITS[power - 1]}`
}
