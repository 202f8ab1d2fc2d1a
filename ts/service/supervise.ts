import { setTimeout as sleep } from 'node:timers/promises'
import { UblkDevice } from '../device.js'
import { UblkError, wrap } from '../errors.js'
import { Failed, type Job } from './job.js'
import type { Log } from './log.js'
import { MemoryLimit } from './memory-limit.js'
import { Notifier } from './notify.js'
import { type DeviceRecord, readRecord } from './record.js'
import { type Hosting, removeDisk } from './serve.js'
import { ServerProcess } from './server-process.js'
import { identityOf } from './system.js'

/** A server may die so often within the time, in milliseconds. */
const ATTEMPTS = 5
const WITHIN = 60_000

/** With more kills for lack of memory within the span, in milliseconds, a supervisor gives up: the next server needs as much. */
const OUT_OF_MEMORY = 2
const OUT_WITHIN = 10 * 60_000

/** How often a server that is not this process's child is looked at, in milliseconds. */
const POLL = 500

/**
 * Has a server of its own serve the device, and replaces it when it dies, for as long as the device waits for one. The
 * device is nowhere in this process, so that what ends a server does not end this.
 *
 * @throws UblkError if the device is without a server in the end, and Failed if it cannot be made.
 */
export async function supervise(job: Job, hosting: Hosting): Promise<void> {
  const { log, interrupts } = hosting
  const { first, second } = interrupts
  const stop = hosting.unwanted ? AbortSignal.any([first, hosting.unwanted]) : first
  let server = await start({ ...job, autoRestart: false }, stop, log, hosting.announce)
  const { id } = server
  const identity = identityOf(id)
  const notifier = new Notifier(async () => await (await UblkDevice.open(id)).readStats())
  notifier.ready(`supervising device ${id}`)
  const signal = (): void => server.process.signal()
  first.addEventListener('abort', () => notifier.stopping())
  for (const interrupt of [first, second]) {
    interrupt.addEventListener('abort', () => signalServer(id, identity, signal))
    if (interrupt.aborted) signalServer(id, identity, signal)
  }
  const deaths: number[] = []
  const kills: number[] = []
  const memory = new MemoryLimit()
  for (;;) {
    const how = await server.process.ended
    const record = await untilDead(id, identity)
    if (!record) {
      if (server.process.status === 0 || first.aborted) return
      throw new UblkError('system', `the server of device ${id} ended (${how}), and so did the device`)
    }
    if (first.aborted) return await removeDisk(await UblkDevice.open(id), second, log)
    const killed = memory.hasKilled() && how === 'SIGKILL'
    const why = killed ? `${how}, for want of memory: ${memory.describe()}` : how
    log.error(`the server of device ${id} died (${why})`, { device: id })
    if (killed && within(OUT_WITHIN, kills) > OUT_OF_MEMORY) {
      throw new UblkError(
        'limit',
        `device ${id} has no server: ${kills.length} were killed for want of memory; ${memory.describe()}`,
        {
          device: id,
          hint: `give it more (MemoryMax= of a service, a container's limit), and then ublk-ts recover ${id}; or delete it`,
        },
      )
    }
    const recent = within(WITHIN, deaths)
    if (recent > ATTEMPTS) {
      throw new UblkError('system', `device ${id} has no server: ${recent} died within a minute`, {
        hint: `ublk-ts recover ${id}, or delete it`,
      })
    }
    await sleep(100 * 2 ** (recent - 1))
    try {
      server = await start(follow(job, record), first, log, async () => {})
      log.warning(`device ${id} is served by another process`, { device: id })
    } catch (error) {
      const line = error instanceof Failed ? error.line : wrap(error).message
      log.error(`device ${id} could not be recovered: ${line}`, { device: id })
    }
  }
}

/** Adds the present time, drops times older than `span`, and returns the number of the rest. */
function within(span: number, times: number[]): number {
  const now = performance.now()
  times.push(now)
  while (times.length > 0 && now - (times[0] ?? now) >= span) times.shift()
  return times.length
}

interface Started {
  readonly process: ServerProcess
  readonly id: number
}

async function start(job: Job, stop: AbortSignal, log: Log, announce: Hosting['announce']): Promise<Started> {
  const { NOTIFY_SOCKET: _, ...env } = process.env // This process is the service.
  const server = new ServerProcess(job, 'inherit', { env })
  try {
    const { type: _, ...disk } = await server.ready(stop)
    await server.letGo()
    await announce(disk).catch(error => {
      if (job.action === 'create') throw error
      log.warning(`nobody could be told that device ${disk.id} is usable: ${wrap(error).message}`)
    })
    return { process: server, id: disk.id }
  } catch (error) {
    await server.end()
    throw error
  }
}

/** Serves the same device on. */
function follow(job: Job, { id, options, scratch, log, notes }: DeviceRecord): Job {
  return {
    ...job,
    action: 'recover',
    id,
    options,
    otherFile: false,
    scratch,
    notes,
    log: { ...job.log, path: log, nameless: false },
    autoRestart: false,
  }
}

/** Waits until nobody serves that device; undefined if it is gone. */
async function untilDead(id: number, identity: string | undefined): Promise<DeviceRecord | undefined> {
  for (;;) {
    const found = readRecord(id)
    if (!('record' in found) || found.record.identity !== identity) return undefined
    if (found.state !== 'served') return found.state === 'dead' ? found.record : undefined
    await sleep(POLL)
  }
}

/** Has its server end, be it this process's child, or another that has taken the device over. */
function signalServer(id: number, identity: string | undefined, own: () => void): void {
  const found = readRecord(id)
  const served = found.state === 'served' && found.record.identity === identity
  try {
    if (served) process.kill(found.record.server.pid, 'SIGTERM')
    else own()
  } catch {} // It is gone.
}
