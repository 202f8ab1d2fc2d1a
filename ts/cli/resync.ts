import type { Command } from 'commander'
import { idOf } from '../remote/names.js'
import { parseSize } from '../size.js'
import { loadApi } from './load-api.js'
import { reading } from './option-reader.js'
import { shown } from './progress.js'

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
    .option(
      '--rate <size>',
      'copy at most this much per second, such as 50M (default: no limit)',
      reading(text => parseSize(text, 'rate')),
    )
    .addHelpText('after', HELP)
    .action(resync)
}

async function resync(device: string, { rate }: { rate?: number }): Promise<void> {
  const id = idOf(device)
  const { UblkDevice } = await loadApi()
  const { interrupts } = await import('../daemon/interrupts.js')
  const { first: signal } = interrupts({ hangup: 'end' })
  const disk = await UblkDevice.open(id)
  const work = disk.resync({ ...(rate === undefined ? {} : { rate }), signal })
  await shown(work, async () => await disk.resyncing())
}
