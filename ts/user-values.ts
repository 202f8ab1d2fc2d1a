import { constants } from 'node:os'
import { types } from 'node:util'

// User code can throw anything: an error whose message is null, an object without a prototype, a proxy whose traps
// throw. These functions turn such a value into an answer, so they never throw themselves.

/** The error number of a failure without one of its own, positive. */
export const EIO: number = constants.errno.EIO

/** Linux's largest error number. */
const LAST_ERRNO = 4095

/** Longer messages are cut, since they go into events and logs. */
const LONGEST = 1000

/** The negated error number that the disk's user gets for a backend's failure. It never throws. */
export function errnoOf(error: unknown): number {
  try {
    if (typeof error !== 'object' || error === null) return -EIO
    const { errno, code } = error as { errno?: unknown; code?: unknown }
    if (typeof code === 'string' && Object.hasOwn(constants.errno, code)) {
      return -((constants.errno as Record<string, number>)[code] ?? EIO)
    }
    // It is negative in Node's errors, positive in ours.
    if (typeof errno === 'number' && Number.isInteger(errno) && errno !== 0) {
      return Math.abs(errno) <= LAST_ERRNO ? -Math.abs(errno) : -EIO
    }
    return -EIO
  } catch {
    return -EIO
  }
}

/** A failure as one line of text. It never throws. If a rejected promise was thrown, it counts as handled. */
export function inOneLine(error: unknown): string {
  quieten(error)
  return oneLine(textOf(error)) || 'no reason given'
}

/** The text of a failure, unchanged. It never throws. */
function textOf(error: unknown): string {
  try {
    const message: unknown = error instanceof Error ? error.message : undefined
    if (typeof message === 'string') return message
  } catch {} // A getter or proxy threw; converting it to a string may still work.
  try {
    return String(error)
  } catch {
    return ''
  }
}

function oneLine(text: string): string {
  const start = text.slice(0, LONGEST)
  const line = start.replace(/\s+/g, ' ').trim()
  return text.length > LONGEST ? `${line}…` : line
}

/** A description of a value for a message. It never throws. */
export function nameOf(value: unknown): string {
  switch (typeof value) {
    case 'string':
      return `'${oneLine(value.slice(0, 50))}${value.length > 50 ? '…' : ''}'`
    case 'number':
    case 'boolean':
    case 'undefined':
      return String(value)
    case 'bigint':
      return value > -(2n ** 64n) && value < 2n ** 64n ? `${value}n` : 'a bigint'
    case 'symbol':
      return 'a symbol'
    case 'function':
      return 'a function'
    default:
      return value === null ? 'null' : isArray(value) ? 'an array' : 'an object'
  }
}

/** Whether a value is an array. It never throws, as `Array.isArray` does for a revoked proxy. */
export function isArray(value: unknown): boolean {
  try {
    return Array.isArray(value)
  } catch {
    return false
  }
}

/** The original `then` of promises. */
export const nativeThen: unknown = Promise.prototype.then

const ignore = (): void => {}

/** Marks a promise as handled: an unhandled rejection would end the process. It never throws. */
export function quieten(value: unknown): void {
  if (!types.isPromise(value)) return
  try {
    Promise.prototype.then.call(value, ignore, ignore)
  } catch {
    // `then` creates its promise with the value's own `constructor`, which can be anything.
    try {
      Object.defineProperty(value, 'constructor', { value: Promise })
      Promise.prototype.then.call(value, ignore, ignore)
    } catch {} // It is frozen: nothing can be done.
  }
}

/** Awaits any value that user code has returned. */
export async function settled(value: unknown): Promise<unknown> {
  quieten(value)
  return await value
}

/**
 * Calls `failed` with the reason if a value that user code has returned is a promise, or a thenable, and rejects:
 * nothing else awaits it, and Node would end the process. It never throws.
 */
export function onRejection(value: unknown, failed: (error: unknown) => void): void {
  if ((typeof value !== 'object' && typeof value !== 'function') || value === null) return
  quieten(value)
  // This promise catches whatever its `then` does, even as a getter.
  new Promise<unknown>(resolve => resolve(value)).then(undefined, failed)
}
