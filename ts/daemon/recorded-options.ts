import { resolve } from 'node:path'
import { type Backend, isNative, type NativeBackend } from '../backends.js'
import { invalid } from '../errors.js'
import type { CreateOptions, RecoverOptions } from '../lifecycle-options.js'

/** What JSON can say. */
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json }

/** A device's options as a record keeps them: all but what JSON cannot say. */
export type RecordedOptions = { backend: Json } & { [key: string]: Json }

/** Not the device's looks, or kept elsewhere in the record. */
const ELSEWHERE: ReadonlySet<string> = new Set<keyof CreateOptions | keyof RecoverOptions>([
  'id',
  'start',
  'signal',
  'record',
  'onReady',
  'otherFile',
])

/**
 * Puts a device's options into a form from which another process can make the same device.
 *
 * @throws UblkError of kind `invalid` if they hold what cannot be written down, such as functions.
 */
export function toRecorded(options: CreateOptions): RecordedOptions {
  const { backend, ...rest } = options
  const looks: { [key: string]: Json } = {}
  for (const [key, value] of Object.entries(rest)) {
    if (!ELSEWHERE.has(key) && value !== undefined) looks[key] = toJson(value, key)
  }
  return { ...looks, backend: backendToJson(backend) }
}

/** The options that a record holds. They are checked as any are when they are used. */
export function fromRecorded(recorded: RecordedOptions): CreateOptions {
  return { ...recorded } as unknown as CreateOptions
}

/** The same backend with `exclusive: false`. */
export function withoutClaim(recorded: RecordedOptions): RecordedOptions {
  const backend = recorded.backend as { [key: string]: Json }
  const claims = backend['kind'] === 'file' || backend['file'] !== undefined
  return claims ? { ...recorded, backend: { ...backend, exclusive: false } } : recorded
}

function backendToJson(backend: Backend): Json {
  const native = isNative(backend) ? (backend as NativeBackend) : undefined
  // The next server may have another working directory.
  if (native?.kind === 'file') return toJson({ ...native, path: resolve(native.path) }, 'backend')
  if (native?.kind === 'memory' && native.file !== undefined)
    return toJson({ ...native, file: resolve(native.file) }, 'backend')
  if (native?.kind === 'lazy') throw unfit('a lazy backend has a function')
  if (native || (backend as { kind?: unknown } | null)?.kind === 'worker') return toJson(backend, 'backend')
  throw unfit('an object as backend has functions')
}

function toJson(value: unknown, path: string): Json {
  if (value === null || typeof value === 'boolean' || typeof value === 'string') return value
  if (typeof value === 'number' && Number.isFinite(value)) return value
  if (Array.isArray(value)) return value.map((each, at) => toJson(each, `${path}[${at}]`))
  const plain = typeof value === 'object' && [Object.prototype, null].includes(Object.getPrototypeOf(value))
  if (!plain) throw unfit(`${path} is ${nameOf(value)}`)
  const known = Object.entries(value as object).filter(([, each]) => each !== undefined)
  return Object.fromEntries(known.map(([key, each]) => [key, toJson(each, `${path}.${key}`)]))
}

function nameOf(value: unknown): string {
  return typeof value === 'object' && value ? (value.constructor?.name ?? 'an object') : `a ${typeof value}`
}

function unfit(why: string): Error {
  return invalid(
    `these options cannot be recorded: ${why}`,
    'another process can make the device again only from what JSON can say: use worker(url, options), or no record',
  )
}
