import { invalid } from './errors.js'

/** Formats a value as JSON for other programs, whole numbers with all their digits. */
export function toJsonText(value: unknown, indent?: number): string {
  let mark = ''
  const exact = (_: string, each: unknown): unknown => {
    // Beyond that JSON.stringify prints only the digits that distinguish the number from other doubles.
    if (!Number.isInteger(each) || Number.isSafeInteger(each)) return each
    mark ||= crypto.randomUUID()
    return `${mark}${BigInt(each as number)}`
  }
  const text = withoutControls(JSON.stringify(value, exact, indent))
  return mark === '' ? text : text.replace(new RegExp(`"${mark}(-?\\d+)"`, 'g'), '$1')
}

/** A JSON text whose control characters are all escaped: JSON leaves some of them, which a terminal would interpret. */
export function withoutControls(json: string): string {
  const escaped = (character: string): string => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`
  return json.replace(/[\x7f-\x9f\u2028\u2029]/g, escaped)
}

/** What JSON can say. */
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json }

/**
 * A value as JSON gives it back. Properties that are undefined are left out.
 *
 * @param path - What it is called in errors.
 * @throws UblkError of kind `invalid` if JSON cannot say it.
 */
export function toPlainJson(value: unknown, path: string): Json {
  if (value === null || typeof value === 'boolean' || typeof value === 'string') return value
  if (typeof value === 'number' && Number.isFinite(value)) return value
  if (Array.isArray(value)) return value.map((each, at) => toPlainJson(each, `${path}[${at}]`))
  const plain = typeof value === 'object' && [Object.prototype, null].includes(Object.getPrototypeOf(value))
  if (!plain) throw cannotRecord(`${path} is ${nameOf(value)}`)
  const known = Object.entries(value as object).filter(([, each]) => each !== undefined)
  return Object.fromEntries(known.map(([key, each]) => [key, toPlainJson(each, `${path}.${key}`)]))
}

function nameOf(value: unknown): string {
  return typeof value === 'object' && value ? (value.constructor?.name ?? 'an object') : `a ${typeof value}`
}

/** The error for options of which another process cannot make a device. */
export function cannotRecord(why: string): Error {
  return invalid(
    `these options cannot be recorded: ${why}`,
    'another process can make the device again only from what JSON can say: use worker(url, options), or no record',
  )
}
