import type { Command } from 'commander'
import { longWork } from './long-work.js'
import { rateOption } from './rate-option.js'

const HELP = `
A side of a mirror that failed was dropped. This copies to it what it missed, and ends when all sides have all. If it is
interrupted, run it again. After a crash of the server the sides are made equal without it.

Example:
  ublk-ts resync 0 --rate 50M`

/** Adds `ublk-ts resync`. */
export function addResync(program: Command): void {
  program
    .command('resync')
    .description('bring back the sides of a mirror that were dropped')
    .argument('<device>', 'such as 0, /dev/ublkb0 or the name of a disk')
    .addOption(rateOption())
    .addHelpText('after', HELP)
    .action(resync)
}

async function resync(device: string, limit: { rate?: number }): Promise<void> {
  await longWork(
    device,
    async (disk, signal) => await disk.resync({ ...limit, signal }),
    async disk => await disk.resyncing(),
  )
}
