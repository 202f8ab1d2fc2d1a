import type { Command } from 'commander'
import { idOf } from '../remote/names.js'
import { loadApi } from './load-api.js'

const HELP = `
The snapshot is of one instant, and no request fails or waits. The upper keeps its path; the snapshot is the file with
.NAME behind that. What programs have not written yet is not in it: sync the file system first, for example with
sync -f, or with fsfreeze around the snapshot.

If the disk was created with --track as well, this also makes a checkpoint of that name, at the same instant.

Examples:
  ublk-ts create --file base.img --overlay vm1.cow
  ublk-ts snapshot 0 before-upgrade               # vm1.cow.before-upgrade
  ublk-ts reset 0                                 # back to it`

/** Adds `ublk-ts snapshot`. */
export function addSnapshot(program: Command): void {
  program
    .command('snapshot')
    .description("keep the present content of an overlay's disk while it is in use")
    .argument('<device>', 'such as 0, /dev/ublkb0 or the name of a disk')
    .argument('<name>', 'letters, digits, -, _ and .')
    .addHelpText('after', HELP)
    .action(snapshot)
}

async function snapshot(device: string, name: string): Promise<void> {
  const id = idOf(device)
  const { UblkDevice } = await loadApi()
  await (await UblkDevice.open(id)).snapshot(name)
}
