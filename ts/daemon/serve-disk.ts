import { rmSync } from 'node:fs'
import { UblkError, wrap } from '../errors.js'
import { type ServedDevice, UblkDevice } from '../index.js'
import { version } from '../version.js'
import type { Interrupts } from './interrupts.js'
import type { Job } from './job.js'
import type { Log } from './log.js'
import { rateLimited } from './rate-limit.js'
import { SystemdNotifier } from './systemd-notify.js'

/** Where a device is served: in the foreground, or detached. */
export interface Hosting {
  readonly log: Log
  readonly interrupts: Interrupts
  /** What runs as a server in a further process; see {@link ServerProcess}. */
  readonly program: readonly string[]
  /** Aborted when the process that waits for the disk has ended. */
  readonly unwanted?: AbortSignal
  /** Called with the disk as soon as it is usable. */
  usable?(disk: ServedDevice): void
  /** Makes the line that announces a disk. */
  announcement(disk: UblkDevice, form: Job['announce']): Promise<string>
  /** Announces to the waiting process that the disk is usable. */
  announce(disk: { readonly id: number; readonly line: string; readonly paused?: number }): Promise<void>
}

/** What a disk to be served is, and how it is made. */
export interface Making {
  readonly announce: Job['announce']
  /** How long that may take, in milliseconds. */
  readonly timeout: number
  /** Files to remove if it fails. */
  readonly scratch: readonly string[]
  /** Whether the disk existed before, so that it stays even if it cannot be announced. */
  readonly keep: boolean
  make(signal: AbortSignal): Promise<{ disk: ServedDevice; paused?: number }>
}

/**
 * Creates or recovers a disk, and serves it until it is interrupted or deleted; then nothing of it is left.
 *
 * @throws UblkError if that fails, or if serving it failed.
 */
export async function serveDisk(making: Making, hosting: Hosting): Promise<void> {
  const { log } = hosting
  logWarnings(log)
  log.info('starting', { pid: process.pid, version: version() })
  const { disk, paused } = await make(making, hosting)
  log.info(`${disk.path} is usable`, { device: disk.id, size: disk.size, queues: disk.queues, paused })
  hosting.usable?.(disk)
  const end = endOf(disk, hosting)
  try {
    const line = await hosting.announcement(disk, making.announce)
    await hosting.announce({ id: disk.id, line, ...(paused === undefined ? {} : { paused }) })
  } catch (error) {
    if (!making.keep) {
      await remove(disk, hosting)
      throw error
    }
    log.warning(`nobody could be told that ${disk.path} is usable: ${wrap(error).message}`)
  }
  const notifier = new SystemdNotifier(async () => disk.stats())
  notifier.ready(`serving ${disk.path}`)
  const how = await end
  if (how.why === 'released') {
    return await tellSuccessor(disk, log, notifier, 'it was handed over, and could not be taken back')
  }
  if (how.why === 'left') {
    await disk.release()
    return await tellSuccessor(disk, log, notifier, how.reason)
  }
  notifier.stopping()
  if (how.why === 'interrupted') await remove(disk, hosting)
  else await disk.delete({ force: true }) // The disk was removed; delete the rest of the device.
  if (how.why === 'failed') {
    throw new UblkError('system', `${disk.path} is gone: ${how.reason}`, { hint: 'serving it failed' })
  }
  if (how.why === 'taken') {
    // In the foreground that is why the command ends; in the background it is expected.
    const tell = hosting.unwanted === undefined ? log.warning : log.info
    tell(`${disk.path} is gone: ${how.reason}`, { device: disk.id })
  }
  log.info(`${disk.path} was removed`, { device: disk.id })
}

/** Without this, Node would print events without a listener, such as errors before the disk is usable, in its own format. */
function logWarnings(log: Log): void {
  process.removeAllListeners('warning')
  const tell = rateLimited(
    (warning: Error) => {
      if (warning instanceof UblkError) log.error(warning.message)
      else log.warning(`${warning.name}: ${warning.message}`)
    },
    more => log.warning(`and ${more} more warnings`, { more }),
  )
  process.on('warning', tell)
}

async function make(
  { make, timeout, scratch }: Making,
  { interrupts: { first: interrupted }, unwanted }: Hosting,
): ReturnType<Making['make']> {
  const late = AbortSignal.timeout(timeout)
  const ends = [interrupted, late, ...(unwanted ? [unwanted] : [])]
  try {
    return await make(AbortSignal.any(ends))
  } catch (error) {
    for (const file of scratch) rmSync(file, { force: true })
    if (interrupted.aborted) throw new UblkError('cancelled', 'interrupted before the disk was usable')
    if (unwanted?.aborted) throw new UblkError('cancelled', 'the process that started this server has ended')
    if (late.aborted) {
      throw new UblkError('timeout', `the disk was not usable after ${timeout / 1000} s`, {
        hint: 'give it more time{more-time}',
      })
    }
    throw error
  }
}

/**
 * How serving ends: it was interrupted; another process serves the disk or has deleted it; it failed, and the disk waits for
 * another server (`left`) or not.
 */
type End =
  | { readonly why: 'interrupted' | 'deleted' | 'released' }
  | { readonly why: 'taken' | 'failed' | 'left'; readonly reason: string }

async function endOf(disk: ServedDevice, { log, interrupts: { first } }: Hosting): Promise<End> {
  return await new Promise(resolve => {
    let last = ''
    const tell = rateLimited(
      (text: string) => log.error(text, { device: disk.id }),
      more => log.error(`and ${more} more errors of ${disk.path}`, { device: disk.id, more }),
    )
    disk.on('error', error => {
      last = error.message
      tell(error.message)
    })
    disk.on('recovered', ({ reason }) => {
      log.warning(`${disk.path} is served by a new thread: ${reason}`, { device: disk.id })
    })
    disk.on('quiesced', () => log.info(`${disk.path} waits for another server`, { device: disk.id }))
    disk.on('live', () => log.info(`${disk.path} is served again`, { device: disk.id }))
    disk.once('exit', ({ reason, waits }) => {
      if (waits) resolve({ why: 'left', reason })
      else resolve({ why: reason === last ? 'failed' : 'taken', reason }) // A failure was emitted as an error before.
    })
    disk.once('deleted', () => resolve({ why: 'deleted' }))
    disk.once('released', () => resolve({ why: 'released' }))
    const interrupt = (): void => resolve({ why: 'interrupted' })
    first.addEventListener('abort', interrupt, { once: true })
    if (first.aborted) interrupt()
  })
}

/** @throws UblkError with `why` if there is none. */
async function tellSuccessor(
  disk: UblkDevice,
  log: Log,
  notifier: SystemdNotifier,
  why: string,
): Promise<void> {
  const successor = await UblkDevice.open(disk.id).catch(() => undefined)
  const { pid = 0, serverAlive = false } = (await successor?.info()) ?? {}
  // The driver may not have noticed yet that this process does not serve it.
  if (!serverAlive || pid === process.pid) {
    throw new UblkError('system', `${disk.path} has no server: ${why}`, {
      device: disk.id,
      hint: '{recover}',
    })
  }
  notifier.handOver(pid)
  log.warning(`${disk.path} is served by process ${pid} now`, { device: disk.id })
}

/** Deletes the disk as soon as it is not in use, or at once when forced. */
async function remove(disk: UblkDevice, { log, interrupts: { second } }: Hosting): Promise<void> {
  await removeDisk(disk, second, log)
}

/** The same for a device of any process. */
export async function removeDisk(disk: UblkDevice, forced: AbortSignal, log: Log): Promise<void> {
  let told = ''
  const tell = (users: string): void => {
    if (users === '' || users === told || forced.aborted) return
    told = users
    log.warning(`${disk.path} is still in use (${users}); waiting — press Ctrl-C again to remove it anyway`)
  }
  const inUse = `${disk.path} is in use: `
  const onProgress = (line: string): void => {
    if (line.startsWith(inUse)) tell(line.slice(inUse.length))
    else log.warning(line)
  }
  tell((await disk.users()).join(', '))
  try {
    await disk.delete({ wait: true, signal: forced, onProgress })
  } catch (error) {
    await disk.delete({ force: true, onProgress: line => log.warning(line) }) // The server ends in any case.
    if (!forced.aborted) throw error
  }
}
