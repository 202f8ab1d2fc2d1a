import type { Command } from 'commander'
import { idOf } from '../remote/names.js'
import { parseSize } from '../size.js'
import { loadApi } from './load-api.js'

const HELP = `
Added space reads as zeroes; data beyond a new, smaller size is lost. The disk's file gets the same size;
what an NBD server has must have that size already.
Afterwards, resize the file system on the disk, for example with resize2fs or xfs_growfs.

Example:
  ublk-ts resize 0 2G`

/** Adds `ublk-ts resize`. */
export function addResize(program: Command): void {
  program
    .command('resize')
    .description('change the size of a disk while it is in use (kernel 6.16)')
    .argument('<device>', 'such as 0, /dev/ublkb0 or the name of a disk')
    .argument('<size>', 'in bytes, or with a unit such as 16M')
    .option('-f, --force', 'shrink it even if it is mounted or open: data beyond the new size is lost')
    .addHelpText('after', HELP)
    .action(resize)
}

async function resize(device: string, text: string, { force = false }: { force?: boolean }): Promise<void> {
  const [id, size] = [idOf(device), parseSize(text)]
  const { UblkDevice } = await loadApi()
  await (await UblkDevice.open(id)).resize(size, { force })
}
