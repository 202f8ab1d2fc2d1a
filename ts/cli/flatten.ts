import type { Command } from 'commander'
import { idOf } from '../remote/names.js'
import { parseSize } from '../size.js'
import { loadApi } from './load-api.js'
import { reading } from './option-reader.js'
import { shown } from './progress.js'

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
    .option(
      '--rate <size>',
      'copy at most this much per second, such as 50M (default: no limit)',
      reading(text => parseSize(text, 'rate')),
    )
    .addHelpText('after', HELP)
    .action(flatten)
}

async function flatten(device: string, { rate }: { rate?: number }): Promise<void> {
  const id = idOf(device)
  const { UblkDevice } = await loadApi()
  const { interrupts } = await import('../daemon/interrupts.js')
  const { first: signal } = interrupts({ hangup: 'end' })
  const disk = await UblkDevice.open(id)
  const work = disk.flatten({ ...(rate === undefined ? {} : { rate }), signal })
  await shown(work, async () => await disk.flattening())
}
