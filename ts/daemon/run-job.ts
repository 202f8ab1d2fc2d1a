import { renameSync, rmSync } from 'node:fs'
import * as native from '#binding'
import { UblkError, wrap } from '../errors.js'
import { UblkDevice } from '../index.js'
import type { RecoverOptions } from '../lifecycle-options.js'
import type { RecordOptions } from '../options/record.js'
import { type ControlClient, connect } from '../remote/control-client.js'
import { openRunDir } from '../remote/run-dir.js'
import type { Job, JobLog } from './job.js'
import { EARLIER } from './log-file.js'
import { logPathOf } from './nameless-log.js'
import { fromRecorded, servingOptions } from './recorded-options.js'
import { type Hosting, type Making, serveDisk } from './serve-disk.js'
import { supervise } from './supervisor.js'
import { inherit } from './systemd-notify.js'

/** Runs a server's job to its end. */
export async function runJob(job: Job, hosting: Hosting): Promise<void> {
  if (job.notes['mlock'] === true) lockMemory()
  if (job.autoRestart) return await supervise(job, hosting)
  const { announce, timeout } = job
  const making = { announce, timeout, make: MAKERS[job.action](job) }
  if (job.action === 'create') await serveDisk({ ...making, keep: false, scratch: job.scratch }, hosting)
  else await serveDisk({ ...making, keep: true, scratch: [] }, hosting)
}

/** Before it serves: this locks present and future memory. */
function lockMemory(): void {
  try {
    native.lockMemory()
  } catch (error) {
    throw wrap(error)
  }
}

type Make = Making['make']

const MAKERS: Record<Job['action'], (job: Job) => Make> = {
  create: job => async signal => {
    const own = job.id === undefined ? {} : { id: job.id }
    return {
      disk: await UblkDevice.create({ ...fromRecorded(job.options), ...own, record: recordOf(job), signal }),
    }
  },
  recover: job => async signal => ({
    disk: await UblkDevice.recover(numberOf(job), { ...recoverOptions(job), signal }),
  }),
  'take-over': job => async signal => {
    using server = await connect(numberOf(job))
    return await takeOver(server, job, signal)
  },
}

/**
 * Takes over a device from its current server. If that fails at any point, the connection is closed, and that server takes
 * the device back.
 */
async function takeOver(server: ControlClient, job: Job, signal: AbortSignal): ReturnType<Make> {
  let began = 0
  const onReady = async (): Promise<void> => {
    began = performance.now()
    await server.quiesce()
  }
  const disk = await UblkDevice.recover(numberOf(job), { ...recoverOptions(job), onReady, signal })
  const paused = performance.now() - began
  // It may have ended meanwhile, and is not needed any more.
  await server.release().then(inherit, () => {})
  return { disk, paused }
}

function recoverOptions(job: Job): RecoverOptions {
  return { ...servingOptions(job.options), otherFile: job.otherFile ?? false, record: recordOf(job) }
}

function recordOf({ scratch, notes, log }: Job): RecordOptions {
  return { scratch, notes, ...logOf(log) }
}

/** Renames a log that was opened before its device had a number. */
function logOf({ path, nameless }: JobLog): Pick<RecordOptions, 'log'> {
  if (path === null) return {}
  if (!nameless) return { log: path }
  const log = (id: number): string => {
    openRunDir()
    const name = logPathOf(id)
    rmSync(name + EARLIER, { force: true }) // of an earlier device with this number
    renameSync(path, name)
    return name
  }
  return { log }
}

function numberOf({ id }: Job): number {
  if (id === undefined) throw new UblkError('invalid', 'no device to take over')
  return id
}
