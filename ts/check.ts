import { invalid, wrongType } from './errors.js'
import { MAX_ID } from './limits.js'
import { nameOf } from './user-values.js'

/** The names of all options in `Options`; the compiler checks that none is missing. */
export type Names<Options> = Readonly<Record<keyof Required<Options>, true>>

/**
 * Checks that options are an object, with options that exist.
 *
 * @param what - What takes them, such as `UblkDevice.create()`.
 * @param names - The options that exist.
 * @throws UblkError of kind `invalid`.
 */
export function checkOptions<Options extends object>(
  options: unknown,
  what: string,
  names: Names<Options>,
): asserts options is Options {
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    throw wrongType(`${what} takes an object of options, not ${nameOf(options)}`, optionList(names))
  }
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined || Object.hasOwn(names, name)) continue
    const near = nearest(name, Object.keys(names))
    throw invalid(
      `${what} has no option ${nameOf(name)}`,
      near === undefined ? optionList(names) : `did you mean ${near}?`,
    )
  }
}

function optionList(names: object): string {
  const all = Object.keys(names)
  return all.length === 0 ? 'it has no options' : `its options are ${all.join(', ')}`
}

/**
 * Checks an option that is true or false.
 *
 * @throws UblkError of kind `invalid`.
 */
export function checkFlag(value: unknown, what: string): asserts value is boolean | undefined {
  if (value !== undefined && typeof value !== 'boolean') {
    throw wrongType(`${what} must be true or false, not ${nameOf(value)}`)
  }
}

/**
 * Checks a function that may be missing.
 *
 * @throws UblkError of kind `invalid`.
 */
export function checkFunction(value: unknown, what: string): void {
  if (typeof value !== 'function') throw wrongType(`${what} must be a function, not ${nameOf(value)}`)
}

/**
 * Checks an abort signal: Node's, or one of a library that has its own class.
 *
 * @throws UblkError of kind `invalid`.
 */
export function checkSignal(value: unknown): asserts value is AbortSignal | undefined {
  if (value === undefined) return
  const signal = value as Partial<AbortSignal> | null
  const right =
    typeof signal === 'object' &&
    typeof signal?.aborted === 'boolean' &&
    typeof signal.addEventListener === 'function' &&
    typeof signal.removeEventListener === 'function' &&
    typeof signal.throwIfAborted === 'function'
  if (!right) throw wrongType(`signal must be an AbortSignal, not ${nameOf(value)}`)
}

/**
 * Checks the number of a device.
 *
 * @throws UblkError of kind `invalid`.
 */
export function checkId(id: unknown): asserts id is number {
  if (typeof id === 'number' && Number.isInteger(id) && id >= 0 && id <= MAX_ID) return
  throw invalid(
    `the id of a device must be a whole number from 0 to ${MAX_ID}, not ${nameOf(id)}`,
    'it is the number in its path: 0 for /dev/ublkb0',
    typeof id === 'number' ? 'ERR_OUT_OF_RANGE' : 'ERR_INVALID_ARG_TYPE',
  )
}

/** The name that was probably meant by a misspelt one; undefined if none is close. */
export function nearest(name: string, names: readonly string[]): string | undefined {
  const plain = (text: string): string => text.toLowerCase().replace(/[-_\s]/g, '')
  const wanted = plain(name)
  if (wanted.length > 64) return undefined
  let best: string | undefined
  let least = wanted.length <= 5 ? 1 : 2
  for (const known of names) {
    const far = distance(wanted, plain(known))
    if (far < least || (far === least && best === undefined)) [best, least] = [known, far]
  }
  return best
}

/** The number of insertions, deletions, replacements and swaps of neighbours that turn one into the other. */
function distance(one: string, other: string): number {
  let [before, last, row] = [[] as number[], [] as number[], range(other.length + 1)]
  for (let i = 1; i <= one.length; i++) {
    ;[before, last, row] = [last, row, [i]]
    for (let j = 1; j <= other.length; j++) {
      const same = one[i - 1] === other[j - 1]
      let least = Math.min(at(last, j) + 1, at(row, j - 1) + 1, at(last, j - 1) + (same ? 0 : 1))
      const exchanged = i > 1 && j > 1 && one[i - 1] === other[j - 2] && one[i - 2] === other[j - 1]
      if (exchanged) least = Math.min(least, at(before, j - 2) + 1)
      row.push(least)
    }
  }
  return at(row, other.length)
}

function range(length: number): number[] {
  return Array.from({ length }, (_, i) => i)
}

function at(row: readonly number[], i: number): number {
  return row[i] ?? Number.POSITIVE_INFINITY
}
