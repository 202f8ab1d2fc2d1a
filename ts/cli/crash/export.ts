import type { Command } from 'commander'
import { idOf } from '../../remote/names.js'
import { loadApi } from '../load-api.js'
import { Interruption } from './interruption.js'
import { exportLog } from './log.js'

const HELP = `
The log has the format of dm-log-writes: the kernel's replay-log reads it, too. Behind it stands what that format cannot hold, such
as the size of the disk, so that crash states needs nothing but the file.

Unmount the disk before: a mounted file system has not written everything.

Example:
  ublk-ts crash export 0 run.log --delete`

/** Adds `ublk-ts crash export`. */
export function addExport(crash: Command): void {
  crash
    .command('export')
    .description('write what was recorded to a file, the log')
    .argument('<device>', 'such as 0, /dev/ublkb0 or the name of a disk')
    .argument('<file>', 'the log, which must not exist')
    .option('--delete', 'delete the disk then')
    .addHelpText('after', HELP)
    .action(run)
}

async function run(device: string, file: string, flags: { delete?: boolean }): Promise<void> {
  const id = idOf(device)
  const { UblkDevice } = await loadApi()
  using interruption = new Interruption()
  const disk = await UblkDevice.open(id)
  await exportLog(disk, file, interruption.signal)
  if (flags.delete) await disk.delete({ signal: interruption.signal })
}
