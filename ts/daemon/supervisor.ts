import { closeSync, openSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { UblkError, wrap } from '../errors.js'
import { UblkDevice } from '../index.js'
import { identityOf } from '../remote/identity.js'
import { type DeviceRecord, readRecord } from '../remote/record-file.js'
import { Failed, type Job } from './job.js'
import type { Log } from './log.js'
import { RestartPolicy } from './restart-policy.js'
import { type Hosting, removeDisk } from './serve-disk.js'
import { ServerProcess } from './server-process.js'
import { SystemdNotifier } from './systemd-notify.js'

/** How long a server may take to come up, in milliseconds, where its predecessor lacked memory. */
const SHORT_OF_MEMORY = 15_000

/** How often a server that is not a child of this process is checked, in milliseconds. */
const POLL = 500

/**
 * Starts a server in another process, and replaces it when it dies, as long as the device waits for a server. This process
 * does not use the device, so that a failure that ends a server does not end the supervisor.
 *
 * @throws UblkError if the device is without a server in the end, and Failed if it cannot be made.
 */
export async function supervise(job: Job, hosting: Hosting): Promise<void> {
  const { log, interrupts, program } = hosting
  const { first, second } = interrupts
  const stop = hosting.unwanted ? AbortSignal.any([first, hosting.unwanted]) : first
  let server = serverFor(program, { ...job, autoRestart: false })
  const { id } = await start(server, job, stop, log, hosting.announce)
  const identity = identityOf(id)
  const notifier = new SystemdNotifier(async () => await (await UblkDevice.open(id)).stats())
  notifier.ready(`supervising device ${id}`)
  const signal = (): void => server.signal()
  first.addEventListener('abort', () => notifier.stopping())
  for (const interrupt of [first, second]) {
    interrupt.addEventListener('abort', () => signalServer(id, identity, signal))
    if (interrupt.aborted) signalServer(id, identity, signal)
  }
  const restartPolicy = new RestartPolicy(id)
  for (let cameUp = true; ; ) {
    const how = await server.ended
    const record = await untilDead(id, identity)
    if (!record) {
      if (server.status === 0 || first.aborted) return
      throw new UblkError('system', `the server of device ${id} ended (${how}), and so did the device`)
    }
    if (first.aborted) return await removeDisk(await UblkDevice.open(id), second, log)
    const { why, pause, short, hopeless } = restartPolicy.add(how, { cameUp })
    log.error(`the server of device ${id} ${cameUp ? 'died' : 'did not come up'} (${why})`, { device: id })
    if (hopeless) throw hopeless
    await sleep(pause)
    const next = follow(job, record, short ? Math.min(job.timeout, SHORT_OF_MEMORY) : job.timeout)
    server = serverFor(program, next)
    try {
      await start(server, next, first, log, async () => {})
      cameUp = true
      log.warning(`device ${id} is served by another process`, { device: id })
    } catch (error) {
      cameUp = false
      const line = error instanceof Failed ? error.line : wrap(error).message
      log.error(`device ${id} could not be recovered: ${line}`, { device: id })
    }
  }
}

/** A server that logs where this process does. */
function serverFor(program: readonly string[], job: Job): ServerProcess {
  const { NOTIFY_SOCKET: _, ...env } = process.env // This process is the service.
  const file = openLogOf(job)
  try {
    return new ServerProcess(program, job, file ?? 'inherit', { env })
  } finally {
    if (file !== undefined) closeSync(file)
  }
}

/**
 * The log, if it is a file: since this process began its own stderr may have been moved away, as logrotate
 * does. A service logs to the journal, wherever an earlier server logged.
 */
function openLogOf({ log: { form, path } }: Job): number | undefined {
  if (form !== 'json' || path === null) return undefined
  try {
    return openSync(path, 'a', 0o600)
  } catch {
    return undefined // An existing disk matters more than its log.
  }
}

/** Waits until the server's disk is usable; ends the server if that fails. */
async function start(
  server: ServerProcess,
  { action }: Job,
  stop: AbortSignal,
  log: Log,
  announce: Hosting['announce'],
): Promise<{ readonly id: number }> {
  try {
    const { type: _, ...disk } = await server.ready(stop)
    await server.letGo()
    await announce(disk).catch(error => {
      if (action === 'create') throw error
      log.warning(`nobody could be told that device ${disk.id} is usable: ${wrap(error).message}`)
    })
    return disk
  } catch (error) {
    await server.end()
    throw error
  }
}

/** The job of the next server of the same device. */
function follow(job: Job, { id, options, scratch, log, notes }: DeviceRecord, timeout: number): Job {
  return {
    ...job,
    action: 'recover',
    id,
    options,
    otherFile: false,
    scratch,
    notes,
    timeout,
    log: { ...job.log, path: log, nameless: false },
    autoRestart: false,
  }
}

/** Waits until the device has no server; undefined if it was deleted. */
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
