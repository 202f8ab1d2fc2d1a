import { clearInterval, setInterval } from 'node:timers'
import { UblkError } from '../errors.js'
import { notResizable, type Properties } from './backend-properties.js'
import type { DiskTraits, JsServer } from './js-server.js'
import { WorkerHandle, type WorkerOptions } from './worker-handle.js'

/** Serves each of a device's queues from a Worker of its own. */
export class WorkerPool implements JsServer {
  properties: Properties
  readonly #options: WorkerOptions
  readonly #workers: WorkerHandle[] = []
  /** What the backend's factory makes, in bytes. */
  readonly #made: number
  /** Runs while a worker has requests. */
  #watchdog: NodeJS.Timeout | undefined

  private constructor(options: WorkerOptions, first: WorkerHandle, properties: Properties) {
    this.#options = options
    this.#workers.push(first)
    this.properties = properties
    this.#made = properties.size
  }

  /**
   * Loads the backend in a first worker.
   *
   * @throws UblkError of kind `backend` if its module or factory fails; the signal's reason if that aborts.
   */
  static async load(options: WorkerOptions, signal?: AbortSignal): Promise<WorkerPool> {
    signal?.throwIfAborted()
    let pool: WorkerPool | undefined
    const first = new WorkerHandle(options, 0, () => pool?.watch())
    const abort = (): void => void first.terminate()
    signal?.addEventListener('abort', abort, { once: true })
    try {
      pool = new WorkerPool(options, first, await first.loaded)
      return pool
    } catch (error) {
      await first.terminate() // Its module may have started something that keeps it running.
      signal?.throwIfAborted()
      throw error
    } finally {
      signal?.removeEventListener('abort', abort)
    }
  }

  async prepare(queues: number): Promise<void> {
    const usable = await Promise.all(this.#workers.map(worker => worker.usable()))
    const fresh: WorkerHandle[] = []
    for (let queue = 0; queue < queues; queue++) {
      if (usable[queue]) continue
      const worker = new WorkerHandle(this.#options, queue, () => this.watch())
      this.#workers[queue] = worker
      fresh.push(worker)
    }
    for (const { size } of await Promise.all(fresh.map(worker => worker.loaded))) {
      if (size === this.#made) continue
      throw new UblkError('backend', 'the backend has another size in each worker', {
        hint: 'its factory is called once a queue and has to make the same disk',
      })
    }
    const { size } = this.properties
    if (size !== this.#made) await Promise.all(fresh.map(worker => worker.resize(size)))
  }

  async resize(size: number): Promise<void> {
    const before = this.properties
    if (!before.resize) throw notResizable()
    const done = await Promise.allSettled(this.#workers.map(worker => worker.resize(size)))
    const failed = done.find(({ status }) => status === 'rejected') as PromiseRejectedResult | undefined
    if (failed) {
      // All have the same size; the first failure is the one to tell.
      await Promise.allSettled(this.#workers.map(worker => worker.resize(before.size)))
      throw failed.reason
    }
    this.properties = { ...before, size }
  }

  serve(queues: readonly number[], { durable }: DiskTraits): void {
    queues.forEach((number, queue) => {
      this.#workers[queue]?.serve(number, durable)
    })
  }

  abandon(): void {
    this.#workers.forEach((worker, queue) => {
      worker.abandon(this.#options.progress(queue))
    })
  }

  async close(): Promise<void> {
    this.#rest()
    await Promise.all(this.#workers.map(worker => worker.close()))
    this.#workers.length = 0
  }

  /** Called when a worker has requests: checks the progress of busy workers until all are idle. */
  watch(): void {
    const { stuckTimeout } = this.#options
    if (stuckTimeout > 0) this.#watchdog ??= setInterval(() => this.#look(), stuckTimeout / 2).unref()
  }

  #rest(): void {
    clearInterval(this.#watchdog)
    this.#watchdog = undefined
  }

  #look(): void {
    let busy = 0
    this.#workers.forEach((worker, queue) => {
      const { inFlight } = this.#options.progress(queue)
      if (worker.stuck(inFlight, this.#options.stuckTimeout)) void worker.terminate()
      if (!worker.sleeps(inFlight)) busy++
    })
    if (busy === 0) this.#rest()
  }
}
