import { clearTimeout, setTimeout } from 'node:timers'
import * as native from '#binding'
import { invalid } from '../errors.js'
import { inOneLine, settled } from '../user-values.js'
import { notResizable, type Properties, propertiesOf, resizeFailed, toDisk } from './backend-properties.js'
import { EventLoop } from './event-loop.js'
import type { JsBackend } from './js-backend.js'
import type { Report } from './js-disk.js'
import type { DiskTraits, JsServer } from './js-server.js'
import { QueueMemory } from './queue-memory.js'
import { SelfUse } from './self-use.js'

const WARNING =
  'this process has the disk open that its own event loop serves: a synchronous call there never returns; ' +
  'use the disk from another process, or serve it with worker()'

/** How long a backend has for its `close`, in milliseconds, as one in a worker has. */
const FAREWELL = 5000

/** Serves a device's only queue from this thread's event loop. */
export class InlineServer implements JsServer {
  properties: Properties
  readonly #backend: JsBackend
  readonly #timeout: number
  readonly #report: Report
  #loops: EventLoop[] = []

  /** @param report - Receives errors that belong to no request. */
  constructor(backend: JsBackend, timeout: number, report: Report) {
    this.properties = propertiesOf(backend)
    this.#backend = backend
    this.#timeout = timeout
    this.#report = report
  }

  async prepare(queues: number): Promise<void> {
    if (queues > 1) throw invalid('a backend in this thread serves one queue', 'use worker() for more')
  }

  serve(queues: readonly number[], traits: DiskTraits): void {
    this.#loops = []
    for (const number of queues) {
      const loop = this.#serve(number, traits)
      if (loop) this.#loops.push(loop)
    }
  }

  async resize(size: number): Promise<void> {
    if (!this.#backend.resize) throw notResizable()
    try {
      await settled(this.#backend.resize(size))
    } catch (error) {
      throw resizeFailed(inOneLine(error))
    }
    this.properties = { ...this.properties, size }
  }

  abandon(): void {
    for (const loop of this.#loops) loop.abandon()
  }

  async close(): Promise<void> {
    let late: NodeJS.Timeout | undefined
    const never = new Promise<void>(resolve => {
      late = setTimeout(() => {
        this.#report(`${this.#name}: close did not end within ${FAREWELL} ms`)
        resolve()
      }, FAREWELL)
    })
    try {
      await Promise.race([settled(this.#backend.close?.()), never])
    } catch (error) {
      this.#report(`${this.#name}: close failed: ${inOneLine(error)}`)
    } finally {
      clearTimeout(late)
    }
  }

  /** Its name in error messages. */
  get #name(): string {
    try {
      const kind: unknown = this.#backend.constructor.name
      return typeof kind === 'string' && kind !== 'Object' && kind !== '' ? kind : 'backend'
    } catch {
      return 'backend'
    }
  }

  /** Takes a pending queue, by its number, and serves it from this thread's event loop. The native part reports failures of that. */
  #serve(number: number, { path, durable }: DiskTraits): EventLoop | undefined {
    const [timeout, { properties }, name, selfUse] = [this.#timeout, this, this.#name, new SelfUse(path)]
    let queue: native.Queue | undefined
    try {
      queue = new native.Queue(number, properties)
      const memory = new QueueMemory(queue)
      const report: Report = message => queue?.report(`${name}: ${message}`)
      const disk = toDisk(this.#backend, memory, report, { properties, timeout, durable })
      const turned = (): void => {
        if (selfUse.found()) queue?.report(WARNING)
      }
      const loop = new EventLoop(queue, memory, disk, report, { timeout, turned })
      loop.start()
      return loop
    } catch (error) {
      queue?.leave(`cannot serve: ${inOneLine(error)}`)
      return undefined
    }
  }
}
