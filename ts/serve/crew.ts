import { once } from 'node:events'
import { MessagePort, Worker } from 'node:worker_threads'
import { invalid, UblkError } from '../errors.js'
import { inOneLine } from './errno.js'
import type { FromWorker, ToWorker, WorkerData } from './messages.js'
import { notResizable, type Properties, resizeFailed } from './properties.js'
import type { Server } from './server.js'

/** What a crew's workers are made of. */
export interface CrewOptions {
  readonly url: string
  readonly options: unknown
  /** After how many milliseconds an asynchronous request times out; 0: never. */
  readonly timeout: number
  /** After how many milliseconds a thread that owes answers and does not get round is ended; 0: never. */
  readonly stuckTimeout: number
  /** Requests that a queue has come to owe and has not answered. */
  readonly owed: (queue: number) => number
}

/** Serves each of a device's queues from a Worker of its own. */
export class Crew implements Server {
  properties: Properties
  readonly #options: CrewOptions
  readonly #hands: Hand[] = []
  /** What the backend's factory makes, in bytes. */
  readonly #made: number
  #watchdog: NodeJS.Timeout | undefined

  private constructor(options: CrewOptions, first: Hand, properties: Properties) {
    this.#options = options
    this.#hands.push(first)
    this.properties = properties
    this.#made = properties.size
  }

  /**
   * Loads the backend in a first worker.
   *
   * @throws UblkError of kind `backend` if its module or factory fails; the signal's reason if that aborts.
   */
  static async load(options: CrewOptions, signal?: AbortSignal): Promise<Crew> {
    signal?.throwIfAborted()
    const first = new Hand(options, 0)
    const abort = (): void => void first.terminate()
    signal?.addEventListener('abort', abort, { once: true })
    try {
      return new Crew(options, first, await first.loaded)
    } catch (error) {
      signal?.throwIfAborted()
      throw error
    } finally {
      signal?.removeEventListener('abort', abort)
    }
  }

  async prepare(queues: number): Promise<void> {
    // A worker that fails is known to have gone only after its queue has.
    await Promise.all(this.#hands.map(hand => hand.idle))
    const fresh: Hand[] = []
    for (let queue = 0; queue < queues; queue++) {
      if (this.#hands[queue]?.gone === false) continue
      const hand = new Hand(this.#options, queue)
      this.#hands[queue] = hand
      fresh.push(hand)
    }
    for (const { size } of await Promise.all(fresh.map(hand => hand.loaded))) {
      if (size === this.#made) continue
      throw new UblkError('backend', 'the backend has another size in each worker', {
        hint: 'its factory is called once a queue and has to make the same disk',
      })
    }
    const { size } = this.properties
    if (size !== this.#made) await Promise.all(fresh.map(hand => hand.resize(size)))
  }

  async resize(size: number): Promise<void> {
    const before = this.properties
    if (!before.resize) throw notResizable()
    const done = await Promise.allSettled(this.#hands.map(hand => hand.resize(size)))
    const failed = done.find(({ status }) => status === 'rejected') as PromiseRejectedResult | undefined
    if (failed) {
      // All have the same size; the first failure is the one to tell.
      await Promise.allSettled(this.#hands.map(hand => hand.resize(before.size)))
      throw failed.reason
    }
    this.properties = { ...before, size }
  }

  seat(seats: readonly number[]): void {
    seats.forEach((seat, queue) => {
      this.#hands[queue]?.seat(seat)
    })
    if (this.#options.stuckTimeout > 0) {
      this.#watchdog ??= setInterval(() => this.#watch(), this.#options.stuckTimeout / 2).unref()
    }
  }

  abandon(): void {
    this.#hands.forEach((hand, queue) => {
      hand.abandon(this.#options.owed(queue))
    })
  }

  async close(): Promise<void> {
    clearInterval(this.#watchdog)
    this.#watchdog = undefined
    await Promise.all(this.#hands.map(hand => hand.close()))
    this.#hands.length = 0
  }

  #watch(): void {
    this.#hands.forEach((hand, queue) => {
      if (hand.stuck(this.#options.owed(queue), this.#options.stuckTimeout)) void hand.terminate()
    })
  }
}

/**
 * @throws UblkError of kind `invalid` if the options cannot be given to a worker.
 */
function startWorker(workerData: WorkerData): Worker {
  const { options, queue } = workerData
  const values: unknown[] = typeof options === 'object' && options !== null ? Object.values(options) : []
  // It runs as the parent does, loaders included; only what says how to read `--eval` is refused for a file. Options of
  // V8 are inherited, but must not be given.
  const asParent = !process.execArgv.some(isInputType)
  try {
    return new Worker(new URL('./worker-main.js', import.meta.url), {
      workerData,
      transferList: values.filter(value => value instanceof MessagePort),
      name: `ublk-q${queue}`,
      ...(asParent ? {} : { execArgv: process.execArgv.filter(argument => !isInputType(argument)) }),
    })
  } catch (error) {
    throw invalid(
      `the options cannot be given to a worker: ${inOneLine(error)}`,
      'they are copied as postMessage copies; a function that makes them gives each worker ports of its own',
    )
  }
}

function isInputType(argument: string): boolean {
  return argument.startsWith('--input-type')
}

/** How long a worker that is to close has for its backend's `close`, in milliseconds. */
const FAREWELL = 5000

/** One worker. */
class Hand {
  readonly loaded: Promise<Properties>
  /** Whether its thread has ended. */
  gone = false
  /** Fulfilled while it serves nothing, or has gone. */
  idle: Promise<void> = Promise.resolve()
  #rest = (): void => {}
  readonly #worker: Worker
  readonly #heart: Int32Array
  #beats = 0
  #abandoned: number | undefined
  #since = performance.now()

  constructor({ url, options, timeout }: CrewOptions, queue: number) {
    this.#heart = new Int32Array(new SharedArrayBuffer(4))
    const own: unknown = typeof options === 'function' ? options({ queue }) : options
    this.#worker = startWorker({ url, options: own, queue, heart: this.#heart, timeout })
    this.loaded = this.#load()
    // From then on only the device keeps Node running. A failure is told to whoever awaits it.
    this.loaded.catch(() => {}).finally(() => this.#worker.unref())
    this.#worker.once('exit', () => {
      this.gone = true
      this.#rest()
    })
    this.#worker.on('message', ({ type }: FromWorker) => {
      if (type === 'ended') this.#rest()
    })
    this.#worker.on('error', () => {}) // The queue tells the device, when its thread has ended.
  }

  seat(seat: number): void {
    this.idle = new Promise(resolve => {
      this.#rest = resolve
    })
    this.#send({ type: 'seat', seat })
  }

  /** Whether it owes answers and has not got round for so long, in milliseconds. */
  stuck(owed: number, timeout: number): boolean {
    const beats = Atomics.load(this.#heart, 0)
    const now = performance.now()
    if (beats !== this.#beats || owed === 0) {
      this.#beats = beats
      this.#since = now
    }
    return !this.gone && now - this.#since >= timeout
  }

  /** Has it fail what it owes; the second time it owes something and did not get round, it is ended. */
  abandon(owed: number): void {
    const beats = Atomics.load(this.#heart, 0)
    if (owed > 0 && this.#abandoned === beats) void this.terminate()
    this.#abandoned = beats
    this.#send({ type: 'abandon' })
  }

  /** Has its backend change its size; at most one such wish is under way. */
  async resize(size: number): Promise<void> {
    this.#worker.ref()
    this.#send({ type: 'resize', size })
    const error = await new Promise<string | undefined>(resolve => {
      const listen = (message: FromWorker): void => {
        if (message.type === 'resized') settle(message.error)
      }
      const gone = (): void => settle('its thread has ended')
      const settle = (error: string | undefined): void => {
        this.#worker.off('message', listen).off('exit', gone)
        resolve(error)
      }
      this.#worker.on('message', listen).once('exit', gone)
      if (this.gone) gone()
    })
    this.#worker.unref()
    if (error !== undefined) throw resizeFailed(error)
  }

  /** Ends it, wherever it is. */
  async terminate(): Promise<void> {
    await this.#worker.terminate()
  }

  async close(): Promise<void> {
    if (this.gone) return
    this.#worker.ref()
    const exit = once(this.#worker, 'exit')
    this.#send({ type: 'close' })
    const late = setTimeout(() => void this.terminate(), FAREWELL)
    await exit.finally(() => clearTimeout(late))
  }

  #send(message: ToWorker): void {
    this.#worker.postMessage(message)
  }

  #load(): Promise<Properties> {
    return new Promise((resolve, reject) => {
      const fail = (why: string): void =>
        reject(new UblkError('backend', `the backend's module cannot be loaded: ${why}`))
      this.#worker.once('message', (message: FromWorker) => {
        if (message.type === 'loaded') resolve(message.properties)
        else if (message.type === 'failed') fail(message.message)
      })
      this.#worker.once('error', error => fail(inOneLine(error)))
      this.#worker.once('exit', code => fail(`its thread ended with ${code}`))
    })
  }
}
