import { InvalidArgumentError } from 'commander'

/** Reads a number of repetitions. */
export function times(text: string): number {
  if (/^[1-9]\d{0,8}$/.test(text)) return Number(text)
  throw new InvalidArgumentError('It must be a whole number from 1.')
}

/** Reads an interval in seconds. */
export function period(text: string): number {
  const value = Number(text)
  // Up to the limit of a timer, in whole seconds.
  if (/^\d+(\.\d+)?$/.test(text) && value >= 0.1 && value <= 2147483) return value
  throw new InvalidArgumentError('It must be a number of seconds from 0.1.')
}

/** Reads a seed. */
export function parseSeed(text: string): number {
  if (/^\d+$/.test(text) && Number.isSafeInteger(Number(text))) return Number(text)
  throw new InvalidArgumentError('It must be a whole number.')
}

/** Reads a port. */
export function port(text: string): number {
  if (/^\d{1,5}$/.test(text) && Number(text) <= 65535) return Number(text)
  throw new InvalidArgumentError('It must be a port from 1 to 65535, or 0 for a free one.')
}
