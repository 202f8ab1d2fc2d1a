import type { Command } from 'commander'
import { idOf } from '../remote/names.js'
import { loadApi } from './load-api.js'

const HELP = `
Without a snapshot, all that was written goes, and the disk has the content of its base. The disk stays attached.

Example:
  ublk-ts reset 0`

/** Adds `ublk-ts reset`. */
export function addReset(program: Command): void {
  program
    .command('reset')
    .description("throw away what was written to an overlay's disk since its last snapshot")
    .argument('<device>', 'such as 0, /dev/ublkb0 or the name of a disk')
    .option('-f, --force', 'even if it is mounted or open: the disk changes under its users')
    .addHelpText('after', HELP)
    .action(reset)
}

async function reset(device: string, { force = false }: { force?: boolean }): Promise<void> {
  const id = idOf(device)
  const { UblkDevice } = await loadApi()
  await (await UblkDevice.open(id)).reset({ force })
}
