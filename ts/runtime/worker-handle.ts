import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { clearTimeout, setTimeout } from 'node:timers'
import { MessageChannel, MessagePort, receiveMessageOnPort, Worker } from 'node:worker_threads'
import { invalid, UblkError } from '../errors.js'
import native from '../native/load.cjs'
import { inOneLine } from '../user-values.js'
import { type Properties, resizeFailed } from './backend-properties.js'
import type { Report } from './js-disk.js'
import { type FromWorker, Heartbeat, type ToWorker, type WorkerData } from './worker-messages.js'

/** What a worker is made of. */
export interface WorkerOptions {
  readonly url: string
  readonly options: unknown
  /** After how many milliseconds an asynchronous request times out; 0: never. */
  readonly timeout: number
  /** After how many milliseconds a thread that has requests and makes no progress is terminated; 0: never. */
  readonly stuckTimeout: number
  /** A queue's counts of answered and pending requests. */
  readonly progress: (queue: number) => Progress
  /** Receives errors that belong to no request. */
  readonly report: Report
}

/** The progress of a queue. */
export interface Progress {
  /** The number of requests that it has answered. */
  readonly answered: number
  /** The number of requests that it has not answered yet. */
  readonly inFlight: number
}

/**
 * @throws UblkError of kind `invalid` if the options cannot be given to a worker.
 */
function startWorker(workerData: WorkerData & { port: MessagePort }): Worker {
  const { options, queue, port } = workerData
  // It runs as the parent does, loaders included; only what says how to read `--eval` is refused for a file. Options of
  // V8 are inherited, but must not be given.
  const asParent = !process.execArgv.some(isInputType)
  if (!existsSync(new URL('./worker-main.js', import.meta.url))) {
    throw new UblkError('unsupported', 'the file worker-main.js of ublk-ts is missing, as after bundling', {
      hint: native.EXTERNAL,
    })
  }
  try {
    const values: unknown[] = typeof options === 'object' && options !== null ? Object.values(options) : []
    return new Worker(new URL('./worker-main.js', import.meta.url), {
      workerData,
      transferList: [port, ...values.filter(value => value instanceof MessagePort)],
      name: `ublk-q${queue}`,
      ...(asParent ? {} : { execArgv: process.execArgv.filter(argument => !isInputType(argument)) }),
    })
  } catch (error) {
    // Thrown by what a bundler has put here, in place of Node.
    if (error instanceof TypeError && !('code' in error)) {
      throw new UblkError('unsupported', `a Worker cannot be started: ${error.message}`, {
        hint: native.EXTERNAL,
        cause: error,
      })
    }
    throw invalid(
      `the options cannot be given to a worker: ${inOneLine(error)}`,
      'they are copied as postMessage copies; a function that makes them gives each worker ports of its own',
    )
  }
}

function isInputType(argument: string): boolean {
  return argument.startsWith('--input-type')
}

type MakeOptions = (context: { queue: number }) => unknown

/** The options of a queue's worker, from the caller's function. */
function made(make: MakeOptions, queue: number): unknown {
  try {
    return make({ queue })
  } catch (error) {
    throw new UblkError(
      'backend',
      `the function that makes the worker's options failed: ${inOneLine(error)}`,
      {
        cause: error,
      },
    )
  }
}

/** How long a worker that is to close has for its backend's `close`, in milliseconds. */
const FAREWELL = 5000

/** How often in a row a worker may be told to fail its requests without answering one. */
const TRIES = 3

/** A worker, as its main thread sees it. */
export class WorkerHandle {
  readonly loaded: Promise<Properties>
  /** Whether its thread has ended. */
  gone = false
  /** Fulfilled while it serves nothing, or has gone. */
  #idle: Promise<void> = Promise.resolve()
  #rest = (): void => {}
  readonly #worker: Worker
  /** A private port: the backend's module can close `parentPort`, and send anything on it. */
  readonly #port: MessagePort
  readonly #heartbeat: Int32Array
  readonly #report: Report
  readonly #busy: () => void
  /** Waits for messages and for the thread's exit. */
  readonly #listeners = new Set<(message: FromWorker | undefined) => void>()
  #beats = 0
  #since = performance.now()
  /** When it was last told to fail its requests: its answers and beats then, and how often in a row that had no effect. */
  #abandoned = { answered: -1, beats: -1, vain: 0 }

  /** @param busy - Called when it has requests and is not watched. */
  constructor({ url, options, timeout, report }: WorkerOptions, queue: number, busy: () => void) {
    this.#heartbeat = new Int32Array(new SharedArrayBuffer(4 * Heartbeat.length))
    this.#report = report
    this.#busy = busy
    const own: unknown = typeof options === 'function' ? made(options as MakeOptions, queue) : options
    const { port1, port2 } = new MessageChannel()
    this.#port = port1
    this.#worker = startWorker({ url, options: own, queue, port: port2, heartbeat: this.#heartbeat, timeout })
    this.loaded = this.#load()
    port1.on('message', (message: FromWorker) => this.#heard(message))
    // From then on only the device keeps Node running. Awaiting `loaded` reports a failure; the thread may stay if the
    // module has started something.
    this.loaded.then(
      () => this.#unref(),
      () => this.terminate(),
    )
    this.#worker.once('exit', () => {
      // Its earlier messages may not have been received yet.
      for (let said = receiveMessageOnPort(port1); said; said = receiveMessageOnPort(port1)) {
        this.#heard(said.message as FromWorker)
      }
      port1.close()
      this.gone = true
      this.#rest()
      for (const listener of this.#listeners) listener(undefined)
    })
    this.#worker.on('error', () => {}) // The queue tells the device, when its thread has ended.
  }

  /** Whether it can serve a queue; known once it serves none, and has loaded its backend or failed to. */
  async usable(): Promise<boolean> {
    // A worker that fails is known to have gone only after its queue has; one that could not load may take long to go.
    await this.#idle
    return await this.loaded.then(
      () => !this.gone,
      () => false,
    )
  }

  serve(queue: number, durable: boolean): void {
    this.#idle = new Promise(resolve => {
      this.#rest = resolve
    })
    this.#send({ type: 'serve', queue, durable })
  }

  /**
   * Whether it has requests and has made no progress for `timeout` milliseconds. If it has requests, it is sent a
   * message.
   */
  stuck(inFlight: number, timeout: number): boolean {
    const beats = this.#count
    const now = performance.now()
    if (beats !== this.#beats || inFlight === 0) {
      this.#beats = beats
      this.#since = now
    }
    if (inFlight > 0) this.#send({ type: 'look' }) // An asynchronous one may merely be waiting; then it answers.
    return !this.gone && now - this.#since >= timeout
  }

  /** Whether it can be left unwatched until it reports that it is busy. */
  sleeps(inFlight: number): boolean {
    if (this.gone) return true
    if (inFlight > 0) return false
    // The worker counts first and then checks whether it is watched. Here the order is reversed, so that one side sees
    // the other.
    Atomics.store(this.#heartbeat, Heartbeat.watched, 0)
    if (this.#count === this.#beats) return true
    Atomics.store(this.#heartbeat, Heartbeat.watched, 1)
    return false
  }

  /**
   * Tells it to fail its requests. It is terminated if it has requests when told again and has made no progress, or has
   * answered none although it was told several times.
   */
  abandon({ answered, inFlight }: Progress): void {
    const beats = this.#count
    const before = this.#abandoned
    const vain = inFlight > 0 && answered === before.answered ? before.vain + 1 : 0
    this.#abandoned = { answered, beats, vain }
    if (inFlight > 0 && (beats === before.beats || vain >= TRIES)) void this.terminate()
    this.#send({ type: 'abandon' })
  }

  /** Has its backend change its size; at most one such wish is under way. */
  async resize(size: number): Promise<void> {
    this.#ref()
    this.#send({ type: 'resize', size })
    const done = await this.#next(message => message.type === 'resized')
    this.#unref()
    if (done === undefined) throw resizeFailed('its thread has ended')
    if (done.type === 'resized' && done.error !== undefined) throw resizeFailed(done.error)
  }

  /** Ends it, wherever it is. */
  async terminate(): Promise<void> {
    await this.#worker.terminate()
  }

  async close(): Promise<void> {
    if (this.gone) return
    this.#ref()
    const exit = once(this.#worker, 'exit')
    this.#send({ type: 'close' })
    const late = setTimeout(() => void this.terminate(), FAREWELL)
    await exit.finally(() => clearTimeout(late))
  }

  get #count(): number {
    return Atomics.load(this.#heartbeat, Heartbeat.beats)
  }

  #heard(message: FromWorker): void {
    if (message.type === 'ended') this.#rest()
    else if (message.type === 'busy') this.#busy()
    else if (message.type === 'trouble') this.#report(message.message)
    for (const listener of this.#listeners) listener(message)
  }

  /** The next message that matches; undefined if the thread ends first. */
  async #next(wanted: (message: FromWorker) => boolean): Promise<FromWorker | undefined> {
    if (this.gone) return undefined
    return await new Promise(resolve => {
      const listener = (message: FromWorker | undefined): void => {
        if (message !== undefined && !wanted(message)) return
        this.#listeners.delete(listener)
        resolve(message)
      }
      this.#listeners.add(listener)
    })
  }

  #send(message: ToWorker): void {
    this.#port.postMessage(message)
  }

  #ref(): void {
    this.#worker.ref()
    this.#port.ref()
  }

  #unref(): void {
    this.#worker.unref()
    this.#port.unref()
  }

  async #load(): Promise<Properties> {
    let why = ''
    this.#worker.once('error', error => {
      why = inOneLine(error)
    })
    this.#worker.once('exit', code => {
      why ||= `its thread ended with ${code}`
    })
    const message = await this.#next(({ type }) => type === 'loaded' || type === 'failed')
    if (message?.type === 'loaded') return message.properties
    if (message?.type === 'failed') {
      const hint = message.hint === '' ? undefined : message.hint
      if (message.invalid) throw invalid(message.message, hint)
      why = message.message
    }
    throw new UblkError('backend', `the backend's module cannot be loaded: ${why}`)
  }
}
