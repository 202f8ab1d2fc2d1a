/**
 * What a backend's Worker runs: loads the backend's module, tells the main thread what it can do, and then
 * serves the queues whose seats it is given, one after the other.
 */
import { basename } from 'node:path'
import { type MessagePort, parentPort, workerData } from 'node:worker_threads'
import * as native from '#binding'
import type { BackendFactory, JsBackend } from './backend.js'
import { ENDED, EVENTS, serveBlocking } from './blocking.js'
import type { JsDisk } from './disk.js'
import { inOneLine } from './errno.js'
import { Loop } from './loop.js'
import { QueueMemory } from './memory.js'
import type { FromWorker, ToWorker, WorkerData } from './messages.js'
import { propertiesOf, toDisk } from './properties.js'

const { url, options, queue: index, heart, timeout } = workerData as WorkerData
const main = parentPort as MessagePort
/** What its errors are told under. */
const name = url.startsWith('data:') ? 'data:' : basename(new URL(url).pathname)
/** Serves the backend, once it is known to be asynchronous. */
let loop: Loop | undefined

function tell(message: FromWorker): void {
  main.postMessage(message)
}

/** The main thread sees that this thread gets round. */
function beat(): void {
  Atomics.add(heart, 0, 1)
}

async function load(): Promise<JsBackend> {
  const module = (await import(url)) as { default?: BackendFactory<unknown> }
  if (typeof module.default !== 'function') {
    throw new TypeError('its default export is no function: export default defineBackend(…)')
  }
  return await module.default(options, { queue: index })
}

function serve(backend: JsBackend, seat: number): void {
  const queue = new native.Queue(seat, propertiesOf(backend).flush)
  const memory = new QueueMemory(queue)
  const disk = toDisk(backend, memory, message => queue.report(`${name}: ${message}`), timeout)
  // A message that is seen to only later would not wake the thread again.
  setImmediate(block)

  function block(): void {
    const begun = serveBlocking(queue, disk, beat)
    if (begun === EVENTS) setImmediate(block)
    else if (begun === ENDED) tell({ type: 'ended' })
    else serveInLoop(queue, memory, disk, begun)
  }
}

/** Serves an asynchronous backend, whose first batch is `begun`. */
function serveInLoop(queue: native.Queue, memory: QueueMemory, disk: JsDisk, begun: number): void {
  const pulse = setInterval(beat, 500)
  const ended = (): void => {
    clearInterval(pulse)
    tell({ type: 'ended' })
  }
  loop = new Loop(queue, memory, disk, { timeout, ended })
  loop.start(begun)
}

async function resize(backend: JsBackend, size: number): Promise<void> {
  let error: string | undefined
  try {
    await backend.resize?.(size)
  } catch (failure) {
    error = inOneLine(failure)
  }
  tell({ type: 'resized', error })
}

try {
  const backend = await load()
  const properties = propertiesOf(backend)
  main.on('message', (message: ToWorker) => {
    if (message.type === 'seat') serve(backend, message.seat)
    else if (message.type === 'abandon') loop?.abandon()
    else if (message.type === 'resize') void resize(backend, message.size)
    else Promise.resolve(backend.close?.()).finally(() => main.close())
  })
  tell({ type: 'loaded', properties })
} catch (error) {
  tell({ type: 'failed', message: inOneLine(error) })
  main.close()
}
