/**
 * What a backend's Worker runs: loads the backend's module, tells the main thread what it can do, and then
 * serves the queues that it is given, one after the other.
 */
import { basename } from 'node:path'
// The global timers may be mocked by a test.
import { setImmediate } from 'node:timers'
import { type MessagePort, parentPort, workerData } from 'node:worker_threads'
import * as native from '#binding'
import { UblkError } from '../errors.js'
import { inOneLine, settled } from '../user-values.js'
import { BATCH_ENDED as ENDED, BATCH_EVENTS as EVENTS } from '../wire.js'
import { type Properties, propertiesOf, toDisk } from './backend-properties.js'
import { serveBlocking } from './blocking-loop.js'
import { EventLoop } from './event-loop.js'
import type { BackendFactory, JsBackend } from './js-backend.js'
import type { JsDisk, Report } from './js-disk.js'
import { QueueMemory } from './queue-memory.js'
import { type FromWorker, Heartbeat, type ToWorker, type WorkerData } from './worker-messages.js'

const data = workerData as WorkerData
const { url, options, queue: index, heartbeat, timeout } = data
const main = data.port as MessagePort
data.port = undefined // The backend's module can see the rest.
/** What its errors are told under. */
const name = url.startsWith('data:') ? 'data:' : basename(new URL(url).pathname)
/** Serves the backend, once it is known to be asynchronous. */
let loop: EventLoop | undefined

function tell(message: FromWorker): void {
  main.postMessage(message)
}

/** Counts this thread's progress for the main thread, and notifies it if it is not watching. */
function beat(): void {
  Atomics.add(heartbeat, Heartbeat.beats, 1)
  if (Atomics.load(heartbeat, Heartbeat.watched) === 0) {
    Atomics.store(heartbeat, Heartbeat.watched, 1)
    tell({ type: 'busy' })
  }
}

async function load(): Promise<JsBackend> {
  const module = (await import(url)) as { default?: BackendFactory<unknown> }
  if (typeof module.default !== 'function') {
    throw new TypeError('its default export is no function: export default defineBackend(…)')
  }
  return (await settled(module.default(options, { queue: index }))) as JsBackend
}

/** Takes a pending queue, by its number, and serves it. The native part reports failures of that. */
function serve(backend: JsBackend, properties: Properties, number: number, durable: boolean): void {
  let queue: native.Queue | undefined
  try {
    queue = new native.Queue(number, properties)
    const memory = new QueueMemory(queue)
    const report: Report = message => queue?.report(`${name}: ${message}`)
    const disk = toDisk(backend, memory, report, { properties, timeout, durable })
    serveQueue(queue, memory, disk, report)
  } catch (error) {
    queue?.leave(`cannot serve: ${inOneLine(error)}`)
    tell({ type: 'ended' })
  }
}

function serveQueue(queue: native.Queue, memory: QueueMemory, disk: JsDisk, report: Report): void {
  // A message that is seen to only later would not wake the thread again.
  setImmediate(block)

  function block(): void {
    const begun = serveBlocking(queue, memory, disk, report, beat)
    if (begun === EVENTS) setImmediate(block)
    else if (begun === ENDED) tell({ type: 'ended' })
    else serveInLoop(queue, memory, disk, report, begun)
  }
}

/** Serves an asynchronous backend, whose first batch is `begun`. */
function serveInLoop(
  queue: native.Queue,
  memory: QueueMemory,
  disk: JsDisk,
  report: Report,
  begun: number,
): void {
  const ended = (): void => tell({ type: 'ended' })
  loop = new EventLoop(queue, memory, disk, report, { timeout, turned: beat, ended })
  loop.start(begun)
}

async function resize(backend: JsBackend, size: number): Promise<void> {
  let error: string | undefined
  try {
    await settled(backend.resize?.(size))
  } catch (failure) {
    error = inOneLine(failure)
  }
  tell({ type: 'resized', error })
}

async function close(backend: JsBackend): Promise<void> {
  try {
    await settled(backend.close?.())
  } catch (error) {
    tell({ type: 'trouble', message: `${name}: close failed: ${inOneLine(error)}` })
  }
  leave()
}

/** Lets this thread end, unless the backend keeps it running. */
function leave(): void {
  main.close()
  parentPort?.close()
}

/** The message for a module that provides no valid backend. */
function failure(error: unknown): FromWorker {
  try {
    if (error instanceof UblkError) {
      const { kind, message, hint } = error
      return {
        type: 'failed',
        invalid: kind === 'invalid',
        message: String(message),
        hint: String(hint ?? ''),
      }
    }
    if (Object(error).code === 'ERR_UNKNOWN_FILE_EXTENSION' && /\.[cm]?ts$/.test(name)) {
      return {
        type: 'failed',
        invalid: true,
        message: `Node ${process.version} does not run TypeScript`,
        hint: 'compile the module first and name the result, or use Node 22.18 or newer',
      }
    }
  } catch {} // Its properties cannot be read.
  return { type: 'failed', invalid: false, message: inOneLine(error), hint: '' }
}

try {
  const backend = await load()
  const properties = propertiesOf(backend)
  main.on('message', (message: ToWorker) => {
    beat()
    if (message.type === 'serve') serve(backend, properties, message.queue, message.durable)
    else if (message.type === 'abandon') loop?.abandon()
    else if (message.type === 'resize') void resize(backend, message.size)
    else if (message.type === 'close') void close(backend)
  })
  tell({ type: 'loaded', properties })
} catch (error) {
  tell(failure(error))
  leave()
}
