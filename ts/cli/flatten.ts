import type { Command } from 'commander'
import { longWork } from './long-work.js'
import { rateOption } from './rate-option.js'

const HELP = `
It ends when all of that is copied. If it is interrupted, or the server is killed, what was copied stays: run it again to
copy the rest. Show how far it is with: ublk-ts show -o FLATTENED

Examples:
  ublk-ts flatten 0 --rate 50M
  ublk-ts create --upper vm1.cow                  # later, without the base`

/** Adds `ublk-ts flatten`. */
export function addFlatten(program: Command): void {
  program
    .command('flatten')
    .description("copy to an overlay's upper all that it lacks, so that it needs neither base nor snapshots")
    .argument('<device>', 'such as 0, /dev/ublkb0 or the name of a disk')
    .addOption(rateOption())
    .addHelpText('after', HELP)
    .action(flatten)
}

async function flatten(device: string, limit: { rate?: number }): Promise<void> {
  await longWork(
    device,
    async (disk, signal) => await disk.flatten({ ...limit, signal }),
    async disk => await disk.flattening(),
  )
}
