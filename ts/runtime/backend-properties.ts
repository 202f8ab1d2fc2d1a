import { nearest } from '../check.js'
import { invalid, UblkError, wrongNumber, wrongType } from '../errors.js'
import { parseSize, type Size } from '../size.js'
import { inOneLine, isArray, nameOf } from '../user-values.js'
import { BatchAdapter } from './batch-adapter.js'
import type { BatchBackend, DiskBackend, JsBackend } from './js-backend.js'
import type { JsDisk, Report } from './js-disk.js'
import { MethodAdapter } from './method-adapter.js'
import type { QueueMemory } from './queue-memory.js'
import { type LimitsInBytes, limitsInBytes } from './request-limits.js'

/** The properties of a backend written in JavaScript, in a form that can be sent between threads. */
export interface Properties {
  readonly size: number
  readonly blockSize: number
  readonly limits: LimitsInBytes | undefined
  /** Whether it handles requests in batches. */
  readonly batch: boolean
  readonly write: boolean
  readonly flush: boolean
  readonly discard: boolean
  readonly writeZeroes: boolean
  readonly resize: boolean
}

/** What is read from a backend: the properties that a disk may have, and the names of all others. */
interface Seen {
  readonly has: ReadonlyMap<string, unknown>
  readonly others: readonly { readonly name: string; readonly method: boolean }[]
}

const METHODS = ['read', 'write', 'flush', 'discard', 'writeZeroes', 'process', 'resize', 'close']
const FIELDS = ['size', 'blockSize', 'limits', 'operations']
const OPERATIONS = ['write', 'flush', 'discard', 'writeZeroes']
const BLOCK_SIZES: readonly unknown[] = [512, 1024, 2048, 4096]

/**
 * Determines what a backend can do. Its properties are read once: later changes of a getter's value have no effect.
 *
 * @throws UblkError of kind `invalid` if it is not a backend, `backend` if its properties cannot be read.
 */
export function propertiesOf(backend: JsBackend): Properties {
  if (typeof backend !== 'object' || backend === null || isArray(backend)) {
    throw wrongType(`the backend is ${nameOf(backend)}, not an object with the methods of a disk`)
  }
  const seen = look(backend)
  refuseMisspelt(seen)
  const has = (name: string): boolean => hasMethod(seen, name)
  const batch = has('process')
  const able = batch ? batchAbilities(seen) : methodAbilities(has)
  has('close')
  const blockSize = seen.has.get('blockSize') ?? 512
  if (!BLOCK_SIZES.includes(blockSize)) {
    throw wrongNumber(
      `the backend's block size must be 512, 1024, 2048 or 4096, not ${nameOf(blockSize)}`,
      blockSize,
    )
  }
  return {
    size: parseSize(seen.has.get('size') as Size, "the backend's size"),
    blockSize: blockSize as number,
    limits: limitsInBytes(seen.has.get('limits'), blockSize as number),
    batch,
    resize: has('resize'),
    ...able,
  }
}

function look(backend: object): Seen {
  try {
    const value = (name: string): unknown => (backend as Record<string, unknown>)[name]
    const has = new Map([...METHODS, ...FIELDS].map(name => [name, value(name)]))
    const operations = has.get('operations')
    if (Array.isArray(operations)) has.set('operations', Array.from<unknown>(operations))
    const limits = has.get('limits')
    if (typeof limits === 'object' && limits !== null && !isArray(limits)) has.set('limits', { ...limits })
    return { has, others: othersOf(backend) }
  } catch (cause) {
    throw new UblkError('backend', `the backend's properties cannot be read: ${inOneLine(cause)}`, { cause })
  }
}

/** The names of its other properties, including those of its class. Getters are not called. */
function othersOf(backend: object): Seen['others'] {
  const others = new Map<string, boolean>()
  let object: object | null = backend
  // A proxy can have itself for a prototype.
  for (let depth = 0; object !== null && object !== Object.prototype && depth < 16; depth++) {
    for (const name of Object.getOwnPropertyNames(object)) {
      if (METHODS.includes(name) || FIELDS.includes(name) || others.has(name)) continue
      const method: unknown = Object.getOwnPropertyDescriptor(object, name)?.value
      others.set(name, typeof method === 'function')
    }
    object = Object.getPrototypeOf(object) as object | null
  }
  others.delete('constructor')
  return Array.from(others, ([name, method]) => ({ name, method }))
}

type Abilities = Pick<Properties, 'write' | 'flush' | 'discard' | 'writeZeroes'>

function hasMethod({ has }: Seen, name: string): boolean {
  const method = has.get(name)
  if (method !== undefined && typeof method !== 'function') {
    throw wrongType(`the backend's ${name} is ${nameOf(method)}, not a function`)
  }
  return method !== undefined
}

/**
 * A misspelt method would never be called, and the disk would be, say, read-only. Other properties are allowed.
 */
function refuseMisspelt({ has, others }: Seen): void {
  const lacking = (known: readonly string[]): string[] => known.filter(name => has.get(name) === undefined)
  const [methods, fields] = [lacking(METHODS), lacking(FIELDS)]
  for (const { name, method } of others) {
    const near = nearest(name, method ? methods : fields)
    if (near === undefined) continue
    throw invalid(
      `the backend has ${nameOf(name)}, which no disk has`,
      `did you mean ${near}? Else give it another name`,
    )
  }
}

function methodAbilities(has: (name: string) => boolean): Abilities {
  if (!has('read'))
    throw invalid('the backend cannot read', 'give it a read(request, into) or a process(batch)')
  return {
    write: has('write'),
    flush: has('flush'),
    discard: has('discard'),
    writeZeroes: has('writeZeroes'),
  }
}

function batchAbilities({ has }: Seen): Abilities {
  const operations = has.get('operations') ?? ['write']
  if (!isArray(operations)) {
    throw invalid(
      `the backend's operations are ${nameOf(operations)}, not a list`,
      `such as ['write', 'flush']`,
    )
  }
  const can = new Set<unknown>(operations as unknown[])
  for (const name of can) {
    // Every disk reads.
    if (name === 'read' || OPERATIONS.includes(name as string)) continue
    const near = typeof name === 'string' ? nearest(name, OPERATIONS) : undefined
    throw invalid(
      `the backend's operations have ${nameOf(name)}, which no disk can do`,
      near === undefined ? `they are of ${OPERATIONS.join(', ')}` : `did you mean ${near}?`,
    )
  }
  return {
    write: can.has('write'),
    flush: can.has('flush'),
    discard: can.has('discard'),
    writeZeroes: can.has('writeZeroes'),
  }
}

/** The error for a backend that has no `resize`. */
export function notResizable(): UblkError {
  return new UblkError('unsupported', 'the backend cannot be resized', { hint: 'give it a resize(size)' })
}

/** The error for a backend whose `resize` failed. */
export function resizeFailed(why: string): UblkError {
  return new UblkError('backend', `the backend cannot be resized: ${why}`)
}

/** A backend written in JavaScript, as the native part takes it. */
export interface ExternalBackend {
  readonly kind: 'external'
  readonly size: number
  readonly blockSize?: number
  readonly limits?: LimitsInBytes
  readonly writeCache?: boolean
  readonly discard?: boolean
  readonly writeZeroes?: boolean
}

/** Describes it to the native part. */
export function toExternal(properties: Properties): ExternalBackend {
  const { size, blockSize, limits, flush, discard, writeZeroes } = properties
  return {
    kind: 'external',
    size,
    blockSize,
    ...(limits && { limits }),
    writeCache: flush,
    discard,
    writeZeroes,
  }
}

/** The settings with which a backend serves a queue. */
export interface Service {
  readonly properties: Properties
  /** After how many milliseconds an unfinished request is answered with an error; 0: never. */
  readonly timeout: number
  /** The kernel sends no flushes, though the backend needs them: every write has to be durable when it completes. */
  readonly durable: boolean
}

/** Makes a backend serve the batches of a queue. */
export function toDisk(
  backend: JsBackend,
  memory: QueueMemory,
  report: Report,
  { properties, timeout, durable }: Service,
): JsDisk {
  const apart = timeout > 0
  if (!properties.batch) return new MethodAdapter(backend as DiskBackend, memory, report, { apart, durable })
  const { process } = backend as BatchBackend
  const asynchronous = isAsync(process)
  return new BatchAdapter(backend as BatchBackend, memory, report, { asynchronous, apart, durable })
}

/** Whether a function is declared async, as far as its properties can be read. */
function isAsync(method: unknown): boolean {
  try {
    return (method as () => void).constructor.name === 'AsyncFunction'
  } catch {
    return false
  }
}

/** Whether each write must be flushed here, because the disk has a cache but the device has none. */
export function isDurable(properties: Properties, { writeCache }: { writeCache: boolean }): boolean {
  return properties.flush && !writeCache
}
