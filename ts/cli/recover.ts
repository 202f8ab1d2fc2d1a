import type { Command } from 'commander'
import type { Job } from '../daemon/job.js'
import { withoutClaim } from '../daemon/recorded-options.js'
import { invalid, UblkError } from '../errors.js'
import { idOf } from '../remote/names.js'
import { report } from './failure.js'
import { loadApi } from './load-api.js'
import { addServingOptions, type ServingFlags, startServing, toServing } from './serving-options.js'

interface Flags extends ServingFlags {
  foreground?: boolean
  otherFile?: boolean
  exclusive: boolean
}

/** Describes --other-file. */
export const OTHER_FILE = 'accept another file than the one that the disk was created from'

const HELP = `
A device that was created with --recovery keeps its disk when its server dies, and I/O blocks (with --recovery
fail, it fails). This command starts a new server from the saved record, in the background if the old one ran
there.

Example:
  ublk-ts recover 0`

/** Adds `ublk-ts recover`. */
export function addRecover(program: Command): void {
  const command = program
    .command('recover')
    .description('take over devices whose server has died; prints their paths')
    .argument('<device...>', 'such as 0, /dev/ublkb0 or the name of a disk')
  addServingOptions(command)
    .option('--foreground', 'serve it in the foreground, even if it was created with --detach')
    .option('--other-file', OTHER_FILE)
    .option('--no-exclusive', "serve the disk's file even if it is in use, and do not lock it")
    .addHelpText('after', HELP)
    .action(recover)
}

async function recover(devices: string[], flags: Flags): Promise<void> {
  if (flags.foreground && flags.detach) throw invalid('--foreground and --detach exclude each other')
  toServing({ ...flags, detach: flags.detach ?? flags.logFile !== undefined }) // Checks the flags before any device is touched.
  const ids = devices.map(idOf)
  await loadApi()
  for (const id of ids) {
    try {
      await recoverOne(id, flags, ids.length > 1)
    } catch (error) {
      if (ids.length === 1) throw error
      process.exitCode = report(error)
    }
  }
}

async function recoverOne(id: number, flags: Flags, several: boolean): Promise<void> {
  await refuseServed(id)
  const { recordToRecover } = await import('../daemon/recoverable-record.js')
  const { options, scratch, notes, log } = await recordToRecover(id)
  const detach = flags.foreground ? false : (flags.detach ?? notes['detached'] === true)
  if (several && !detach)
    throw invalid('several devices can be recovered only in the background', 'add --detach')
  const autoRestart = flags.autoRestart ?? notes['autoRestart'] === true
  const serving = toServing({ ...flags, detach, autoRestart })
  const path = serving.log.path ?? (detach ? log : null)
  const { otherFile, exclusive } = flags
  const job: Job = {
    ...serving,
    action: 'recover',
    id,
    options: exclusive ? options : withoutClaim(options),
    otherFile,
    scratch,
    log: { ...serving.log, path },
  }
  await startServing(job, { detached: detach })
}

/** Fails if the device has a server in another PID namespace, where a PID means another process than here. */
async function refuseServed(id: number): Promise<void> {
  const { UblkDevice } = await loadApi()
  const info = await UblkDevice.open(id).then(
    device => device.info(),
    () => undefined, // The record's error says more.
  )
  if (info?.state !== 'live' || !info.serverAlive || info.pid > 0) return
  throw new UblkError('busy', `device ${id} is served by a process that is not visible from here`, {
    device: id,
    hint: 'it may be in another PID namespace, such as a container; it needs no recovery',
  })
}
