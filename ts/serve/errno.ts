import { constants } from 'node:os'
import { types } from 'node:util'

// What user code throws can be anything: an error whose message is null, an object without a prototype, a proxy whose
// traps throw. These functions are called where that has to be answered, so they never throw themselves.

/** The error number of what failed without saying how, positive. */
export const EIO: number = constants.errno.EIO

/** Linux's largest error number. */
const LAST_ERRNO = 4095

/** A message that is longer is cut: it goes into events and logs. */
const LONGEST = 1000

/** The negative error number that a backend's failure means to the disk's user. It never throws. */
export function errnoOf(error: unknown): number {
  try {
    if (typeof error !== 'object' || error === null) return -EIO
    const { errno, code } = error as { errno?: unknown; code?: unknown }
    if (typeof code === 'string' && Object.hasOwn(constants.errno, code)) {
      return -((constants.errno as Record<string, number>)[code] ?? EIO)
    }
    // Node's own errors have it negative, ours positive.
    if (typeof errno === 'number' && Number.isInteger(errno) && errno !== 0) {
      return Math.abs(errno) <= LAST_ERRNO ? -Math.abs(errno) : -EIO
    }
    return -EIO
  } catch {
    return -EIO
  }
}

/** What a failure is in one line. It never throws. A rejected promise that somebody has thrown counts as handled. */
export function inOneLine(error: unknown): string {
  quieten(error)
  return oneLine(textOf(error)) || 'no reason given'
}

/** The text of a failure, as it is. It never throws. */
function textOf(error: unknown): string {
  try {
    const message: unknown = error instanceof Error ? error.message : undefined
    if (typeof message === 'string') return message
  } catch {} // A getter or a proxy that throws: perhaps it can be made a string.
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

/** What a value is, in words for a message. It never throws. */
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

/** The method that promises have, if nobody has given them another one. */
export const nativeThen: unknown = Promise.prototype.then

const ignore = (): void => {}

/** A promise that rejects, and that nobody waits for, ends the process: not this one. It never throws. */
export function quieten(value: unknown): void {
  if (!types.isPromise(value)) return
  try {
    Promise.prototype.then.call(value, ignore, ignore)
  } catch {
    // What makes the promise that `then` returns is the value's own `constructor`, which can be anything.
    try {
      Object.defineProperty(value, 'constructor', { value: Promise })
      Promise.prototype.then.call(value, ignore, ignore)
    } catch {} // It is frozen: nothing helps.
  }
}

/** Waits for what user code has returned, whatever that is. */
export async function settled(value: unknown): Promise<unknown> {
  quieten(value)
  return await value
}

/**
 * Calls `failed` with what a value that user code has returned comes to reject with, if it is a promise or looks like
 * one: nobody else waits for it, and Node would end the process. It never throws.
 */
export function onRejection(value: unknown, failed: (error: unknown) => void): void {
  if ((typeof value !== 'object' && typeof value !== 'function') || value === null) return
  quieten(value)
  // Whatever its `then` does, also as a getter, ends up in this promise.
  new Promise<unknown>(resolve => resolve(value)).then(undefined, failed)
}
