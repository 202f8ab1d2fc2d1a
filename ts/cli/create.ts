import type { Command } from 'commander'
import type { Job } from '../daemon/job.js'
import { toRecorded } from '../daemon/recorded-options.js'
import { invalid } from '../errors.js'
import { addDiskOptions, type DiskFlags, toOptions } from './create-options.js'
import { addServingOptions, type ServingFlags, startServing, toServing } from './serving-options.js'

interface Flags extends DiskFlags, ServingFlags {
  orRecover?: boolean
  trace?: boolean
  mlock?: boolean
}

const HELP = `
Sizes are bytes or have a unit: 16M and 16MiB are 16 × 1024 × 1024, 16MB is 16 × 1000 × 1000.

The disk exists as long as this command runs. Ctrl-C removes it; while it is mounted or open, the command
waits until it is free, and a second Ctrl-C removes it anyway. With --detach the command returns once the
disk is usable, and the disk exists until ublk-ts delete.

Example:
  ublk-ts create --mem 16M`

/** Adds `ublk-ts create`. */
export function addCreate(program: Command): void {
  const command = program
    .command('create')
    .description('create a disk and serve it until interrupted; prints its path once it is usable')
  addServingOptions(
    addDiskOptions(command).option(
      '--or-recover',
      'with --id: recover that device instead if it has lost its server',
    ),
  )
    .option('--mlock', 'keep the whole server in memory (mlockall)')
    .option('--trace', 'print each request on stderr; do not redirect stderr to the disk itself')
    .addHelpText('after', HELP)
    .action(create)
}

async function create(flags: Flags): Promise<void> {
  const { id, detach = false, autoRestart, recovery, orRecover, trace = false, mlock } = flags
  const serving = toServing(flags)
  const notes = mlock ? { ...serving.notes, mlock } : serving.notes
  // The driver copies into the buffers. Pre-faulting them lets the kernel swap out without allocating memory for them.
  const buffers = mlock ? { ...flags.buffers, prefault: true, lock: true } : flags.buffers
  const { options, scratch } = toOptions({ ...flags, ...(buffers && { buffers }) }, { lasting: detach })
  if (autoRestart && recovery === undefined) throw invalid('--auto-restart needs --recovery')
  if (trace && (detach || autoRestart)) {
    const hint = 'ublk-ts trace attaches to any server'
    throw invalid('--trace is neither for --detach nor for --auto-restart', hint)
  }
  if (orRecover && id === undefined) throw invalid('--or-recover needs --id')
  const job: Job = { ...serving, notes, action: 'create', id, options: toRecorded(options), scratch }
  await startServing(orRecover ? await recovering(job) : job, { detached: detach, trace })
}

/** The job that recovers the device, if it waits for a new server. A dead device is removed first. */
async function recovering(job: Job): Promise<Job> {
  const { recoverInstead } = await import('../daemon/create-or-recover.js')
  return await recoverInstead(job)
}
