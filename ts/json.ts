import { randomUUID } from 'node:crypto'

/** Formats a value as JSON for other programs, whole numbers with all their digits. */
export function toJsonText(value: unknown, indent?: number): string {
  const mark = randomUUID()
  const exact = (_: string, each: unknown): unknown => {
    // Beyond that JSON.stringify prints only the digits that distinguish the number from other doubles.
    const rounded = Number.isInteger(each) && !Number.isSafeInteger(each)
    return rounded ? `${mark}${BigInt(each as number)}` : each
  }
  return withoutControls(JSON.stringify(value, exact, indent)).replace(
    new RegExp(`"${mark}(-?\\d+)"`, 'g'),
    '$1',
  )
}

/** A JSON text whose control characters are all escaped: JSON leaves some of them, which a terminal would interpret. */
export function withoutControls(json: string): string {
  const escaped = (character: string): string => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`
  return json.replace(/[\x7f-\x9f\u2028\u2029]/g, escaped)
}
