import { type InvalidCode, invalid } from '../errors.js'
import { BLOCK_SIZES } from '../limits.js'
import { parseSize, type Size } from '../size.js'
import { inOneLine, nameOf } from '../user-values.js'
import type { Option, SizeRule } from './option.js'
import { OPTIONS } from './table.js'
import { listInWords, sizesInWords } from './words.js'

/** The smallest block size: what is wrong with it is wrong with all. */
const [LEAST_BLOCK = 512] = BLOCK_SIZES

/**
 * Checks the values of options, before the disk's block size is known.
 *
 * @throws UblkError of kind `invalid`.
 */
export function checkValues(options: object): void {
  for (const [name, value] of Object.entries(options)) {
    if (value !== undefined && Object.hasOwn(OPTIONS, name)) checkedValue(name, value, LEAST_BLOCK)
  }
}

/**
 * Checks the value of an option, which is not undefined, and returns it: a size in bytes, another value as it is.
 *
 * @param block - The disk's logical block size.
 * @throws UblkError of kind `invalid`.
 */
export function checkedValue(name: string, value: unknown, block: number): unknown {
  const { takes, cli } = OPTIONS[name] as Option
  const refuse = (wanted: string, type: string, otherwise: InvalidCode): Error => {
    // Without quotation marks, text suits the command line, too.
    const shown = cli && typeof value === 'string' ? inOneLine(value) : nameOf(value)
    const code = typeof value === type ? otherwise : 'ERR_INVALID_ARG_TYPE'
    return invalid(`${label(name)} must be ${wanted}, not ${shown}`, undefined, code)
  }
  switch (takes.type) {
    case 'count': {
      const { min, max } = takes
      if (Number.isInteger(value) && (value as number) >= min && (value as number) <= max) return value
      throw refuse(`a whole number from ${min} to ${max}`, 'number', 'ERR_OUT_OF_RANGE')
    }
    case 'size': {
      const bytes = parseSize(value as Size, label(name))
      if (isPossible(bytes, takes.rule, block)) return bytes
      throw refuse(sizesInWords(takes.rule, 'cli', block), typeof value, 'ERR_OUT_OF_RANGE')
    }
    case 'flag':
      if (typeof value === 'boolean') return value
      throw refuse('true or false', 'boolean', 'ERR_INVALID_ARG_VALUE')
    case 'choice':
      if (typeof value === 'string' && Object.hasOwn(takes.of, value)) return value
      throw refuse(listInWords(Object.keys(takes.of)), 'string', 'ERR_INVALID_ARG_VALUE')
    case 'other':
      takes.check(value)
      return value
  }
}

function isPossible(bytes: number, rule: SizeRule, block: number): boolean {
  if ('of' in rule) return rule.of.includes(bytes)
  if ('powerOfTwo' in rule) return bytes >= block && bytes <= rule.max && (bytes & (bytes - 1)) === 0
  const [unit, min] = rule.multipleOf === 'block' ? [block, block] : [rule.multipleOf, rule.min]
  return bytes >= min && bytes <= rule.max && bytes % unit === 0
}

/** `maxIo` → `max io`, which suits the option of the API and the flag of the command line. */
function label(name: string): string {
  return name.replace(/[A-Z]/g, letter => ` ${letter.toLowerCase()}`)
}
