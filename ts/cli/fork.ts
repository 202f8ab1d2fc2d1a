import type { Command } from 'commander'
import type { Job } from '../daemon/job.js'
import { UblkError } from '../errors.js'
import { idOf } from '../remote/names.js'
import { loadApi } from './load-api.js'
import { addServingOptions, type ServingFlags, startServing, toServing } from './serving-options.js'

interface Flags extends ServingFlags {
  overlay: string
  name?: string
}

const HELP = `
Both disks begin with the present content, which stays as a snapshot; each keeps what is written to it in an upper of its
own. The new disk has the options of the old one, but not its name. What programs have not written yet is not in it: sync the file system
first.

Example:
  ublk-ts fork 0 --overlay vm2.cow --detach`

/** Adds `ublk-ts fork`. */
export function addFork(program: Command): void {
  const command = program
    .command('fork')
    .description(
      "make another disk that begins with the present content of an overlay's disk; prints its path",
    )
    .argument('<device>', 'such as 0, /dev/ublkb0 or the name of a disk')
    .requiredOption(
      '--overlay <path>',
      "the file for what is written to the new disk, in the directory of the old one's upper",
    )
    .option('--name <name>', 'the name of the snapshot that both are over (default: that of the new file)')
  addServingOptions(command).addHelpText('after', HELP).action(fork)
}

async function fork(device: string, { overlay: upper, name, ...flags }: Flags): Promise<void> {
  const [id, serving] = [idOf(device), toServing(flags)]
  const { UblkDevice } = await loadApi()
  const { readRecord } = await import('../remote/record-file.js')
  const { fromRecorded, toRecorded } = await import('../daemon/recorded-options.js')
  const disk = await UblkDevice.open(id)
  const found = readRecord(id)
  if (found.state !== 'served') {
    throw new UblkError('not-found', `nobody can be asked about device ${id}`, {
      device: id,
      hint: 'its server has to run, and the device has to have a record',
    })
  }
  const backend = await disk.fork({ upper, ...(name === undefined ? {} : { name }) })
  // A name is of one disk.
  const { name: _, ...others } = fromRecorded(found.record.options)
  const options = toRecorded({ ...others, backend })
  const job: Job = { ...serving, action: 'create', id: undefined, options, scratch: [] }
  await startServing(job, { detached: flags.detach ?? false })
}
