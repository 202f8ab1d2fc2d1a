import * as native from '#binding'
import { invalid } from '../errors.js'
import type { JsBackend } from './backend.js'
import { inOneLine } from './errno.js'
import { Loop } from './loop.js'
import { QueueMemory } from './memory.js'
import { OwnClient } from './own-client.js'
import { notResizable, type Properties, propertiesOf, resizeFailed, toDisk } from './properties.js'
import type { Server } from './server.js'

const WARNING =
  'this process has the disk open that its own event loop serves: a synchronous call there never returns; ' +
  'use the disk from another process, or serve it with worker()'

/** Serves a device's only queue from this thread's event loop. */
export class InlineServer implements Server {
  properties: Properties
  readonly #backend: JsBackend
  readonly #timeout: number
  #loops: Loop[] = []

  constructor(backend: JsBackend, timeout: number) {
    this.properties = propertiesOf(backend)
    this.#backend = backend
    this.#timeout = timeout
  }

  async prepare(queues: number): Promise<void> {
    if (queues > 1) throw invalid('a backend in this thread serves one queue', 'use worker() for more')
  }

  seat(seats: readonly number[], path: string): void {
    this.#loops = seats.map(seat => this.#serve(seat, new OwnClient(path)))
  }

  async resize(size: number): Promise<void> {
    if (!this.#backend.resize) throw notResizable()
    try {
      await this.#backend.resize(size)
    } catch (error) {
      throw resizeFailed(inOneLine(error))
    }
    this.properties = { ...this.properties, size }
  }

  abandon(): void {
    for (const loop of this.#loops) loop.abandon()
  }

  async close(): Promise<void> {
    await this.#backend.close?.()
  }

  /** Takes a seat and serves it from this thread's event loop. */
  #serve(seat: number, ownClient: OwnClient): Loop {
    const timeout = this.#timeout
    const kind = this.#backend.constructor?.name ?? 'Object'
    const name = kind === 'Object' ? 'backend' : kind
    const queue = new native.Queue(seat, this.properties.flush)
    try {
      const memory = new QueueMemory(queue)
      const disk = toDisk(this.#backend, memory, message => queue.report(`${name}: ${message}`), timeout)
      const turned = (): void => {
        if (ownClient.found()) queue.report(WARNING)
      }
      const loop = new Loop(queue, memory, disk, { timeout, turned })
      loop.start()
      return loop
    } catch (error) {
      queue.leave(`cannot serve: ${inOneLine(error)}`)
      throw error
    }
  }
}
