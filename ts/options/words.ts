import { formatSize } from '../size.js'
import type { Count, SizeRule, Values } from './option.js'

const SECTOR = 512

/** Who reads: the user of a program's interface, or of the command line. */
export type Reader = 'api' | 'cli'

/** How the sentence about an option goes on with the possible values, if there is anything to say. */
export function valuesInWords(takes: Values, reader: Reader): string {
  if (takes.type === 'count') return countInWords(takes, reader)
  if (takes.type === 'size') return `: ${sizesInWords(takes.rule, reader)}`
  const words = takes.type === 'other' ? takes.words?.[reader] : undefined
  return words === undefined ? '' : `: ${words}`
}

function countInWords({ min, max, unit, zero }: Count, reader: Reader): string {
  if (zero !== undefined) return `; 0: ${zero}`
  if (unit !== 'milliseconds') return `: ${min} to ${max}`
  return reader === 'api' && min > 0 ? `: at least ${min}` : '' // The limit of a timer means nothing to a reader.
}

/** The possible sizes in words. `block`: the block size of the disk, if it is known. */
export function sizesInWords(rule: SizeRule, reader: Reader, block?: number): string {
  const size = (bytes: number): string => sizeInWords(bytes, reader)
  if ('of' in rule) return listInWords(rule.of.map(String))
  if ('powerOfTwo' in rule) return `a power of two from ${block ?? 'the block size'} to ${size(rule.max)}`
  if (rule.multipleOf !== 'block') {
    return `a multiple of ${size(rule.multipleOf)} from ${size(rule.min)} to ${size(rule.max)}`
  }
  const round = Number.isInteger(Math.log2(rule.max))
  const limit = round ? `at most ${size(rule.max)}` : `below ${size(rule.max + SECTOR)}`
  return `a multiple of the block size${block === undefined ? '' : ` ${block}`}, ${limit}`
}

/** `4 KiB` for programs, `4K` on the command line. */
export function sizeInWords(bytes: number, reader: Reader): string {
  const text = formatSize(bytes)
  return reader === 'cli' ? text : text.replace(/[A-Z]$/, unit => (unit === 'B' ? ' bytes' : ` ${unit}iB`))
}

/** `a, b or c`. */
export function listInWords(words: readonly string[]): string {
  return `${words.slice(0, -1).join(', ')} or ${words.at(-1)}`
}

/** What a number of this unit is followed by: `, in microseconds`. */
export function unitInWords(takes: Values): string {
  return takes.type === 'count' && takes.unit !== undefined ? `, in ${takes.unit}` : ''
}
