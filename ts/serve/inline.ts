import * as native from '#binding'
import { invalid } from '../errors.js'
import type { JsBackend } from './backend.js'
import { inOneLine } from './errno.js'
import { Loop } from './loop.js'
import { QueueMemory } from './memory.js'
import { type Properties, propertiesOf, toDisk } from './properties.js'
import type { Server } from './server.js'

/** Serves a device's only queue from this thread's event loop. */
export class InlineServer implements Server {
  readonly properties: Properties
  readonly #backend: JsBackend
  readonly #timeout: number
  #queues: native.Queue[] = []

  constructor(backend: JsBackend, timeout: number) {
    this.properties = propertiesOf(backend)
    this.#backend = backend
    this.#timeout = timeout
  }

  async prepare(queues: number): Promise<void> {
    if (queues > 1) throw invalid('a backend in this thread serves one queue', 'use worker() for more')
  }

  seat(seats: readonly number[]): void {
    this.#queues = seats.map(seat => serveInLoop(this.#backend, seat, this.properties, this.#timeout))
  }

  leave(): void {
    for (const queue of this.#queues) queue.leave('its thread ends')
  }

  async close(): Promise<void> {
    await this.#backend.close?.()
  }
}

/** Takes a seat and serves it from this thread's event loop. */
function serveInLoop(
  backend: JsBackend,
  seat: number,
  properties: Properties,
  timeout: number,
): native.Queue {
  const queue = new native.Queue(seat, properties.flush)
  try {
    const memory = new QueueMemory(queue)
    const disk = toDisk(backend, memory, message => queue.report(message), timeout)
    new Loop(queue, memory, disk, { timeout, ended: () => {} }).start()
    return queue
  } catch (error) {
    queue.leave(`cannot serve: ${inOneLine(error)}`)
    throw error
  }
}
