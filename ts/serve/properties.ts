import type { BackendSpec } from '#binding'
import { invalid, UblkError } from '../errors.js'
import { parseSize } from '../size.js'
import type { BatchBackend, JsBackend } from './backend.js'
import { Batches } from './batches.js'
import type { JsDisk, Report } from './disk.js'
import { Friendly } from './friendly.js'
import type { QueueMemory } from './memory.js'

/** What a backend written in JavaScript can do, in a form that travels between threads. */
export interface Properties {
  readonly size: number
  readonly blockSize: number
  readonly write: boolean
  readonly flush: boolean
  readonly discard: boolean
  readonly writeZeroes: boolean
  readonly resize: boolean
}

/**
 * Finds out what a backend can do.
 *
 * @throws UblkError of kind `invalid` if it is none.
 */
export function propertiesOf(backend: JsBackend): Properties {
  if (typeof backend !== 'object' || backend === null) {
    throw invalid(`the backend is ${backend === null ? 'null' : `a ${typeof backend}`}, not an object`)
  }
  const able = isBatch(backend) ? batchAbilities(backend) : friendlyAbilities(backend)
  const resize: unknown = backend.resize
  if (resize !== undefined && typeof resize !== 'function') {
    throw invalid(`the backend's resize is ${typeof resize}, not a function`)
  }
  return {
    size: parseSize(backend.size),
    blockSize: backend.blockSize ?? 512,
    resize: resize !== undefined,
    ...able,
  }
}

type Abilities = Omit<Properties, 'size' | 'blockSize' | 'resize'>

function friendlyAbilities(backend: Partial<Record<keyof Abilities | 'read', unknown>>): Abilities {
  const has = (name: keyof Abilities | 'read'): boolean => {
    const method = backend[name]
    if (method !== undefined && typeof method !== 'function') {
      throw invalid(`the backend's ${name} is ${typeof method}, not a function`)
    }
    return method !== undefined
  }
  if (!has('read'))
    throw invalid('the backend cannot read', 'give it a read(request, into) or a process(batch)')
  const [write, flush, discard, writeZeroes] = [
    has('write'),
    has('flush'),
    has('discard'),
    has('writeZeroes'),
  ]
  return { write, flush, discard, writeZeroes }
}

function batchAbilities(backend: BatchBackend): Abilities {
  const can = new Set(backend.operations ?? ['write'])
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

/** What the native part is told of it. */
export function toExternal(properties: Properties): BackendSpec {
  const { size, blockSize, flush, discard, writeZeroes } = properties
  return { kind: 'external', size, blockSize, writeCache: flush, discard, writeZeroes }
}

/** Makes a backend serve the batches of a queue. */
export function toDisk(backend: JsBackend, memory: QueueMemory, report: Report, timeout: number): JsDisk {
  const apart = timeout > 0
  if (!isBatch(backend)) return new Friendly(backend, memory, report, { apart })
  const asynchronous = backend.process.constructor.name === 'AsyncFunction'
  return new Batches(backend, memory, report, { asynchronous, apart })
}

function isBatch(backend: JsBackend): backend is BatchBackend {
  return typeof (backend as Partial<BatchBackend>).process === 'function'
}
