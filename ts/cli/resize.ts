import type { Command } from 'commander'
import { parseSize } from '../size.js'
import { parseDeviceId } from './device-table.js'
import { loadApi } from './load-api.js'

const HELP = `
What is added reads as zeroes; what lies behind a new end is lost. A file is made as long as the disk.
Afterwards the file system on it can be resized, with resize2fs or xfs_growfs say.

Example:
  ublk-ts resize 0 2G`

/** Adds `ublk-ts resize`. */
export function addResize(program: Command): void {
  program
    .command('resize')
    .description('give a disk another size while it is used (kernel 6.16)')
    .argument('<device>', 'such as 0 or /dev/ublkb0')
    .argument('<size>', 'bytes, or with a unit such as 16M')
    .option('-f, --force', 'shrink it even if it is mounted or open: what lies behind is lost')
    .addHelpText('after', HELP)
    .action(resize)
}

async function resize(device: string, text: string, { force = false }: { force?: boolean }): Promise<void> {
  const [id, size] = [parseDeviceId(device), parseSize(text)]
  const { UblkDevice } = await loadApi()
  await (await UblkDevice.open(id)).resize(size, { force })
}
