import type { Command } from 'commander'
import { toJsonText } from '../json.js'
import { idOf } from '../remote/names.js'
import { loadApi } from './load-api.js'
import { print } from './output.js'

const HELP = `
It prints OFFSET+LENGTH in bytes, a line for each range: whole blocks of 4 KiB, except at the end of the disk. The JSON
object also says whether it is known what was changed. If not, as after the server was killed, there is one range: all
of the disk. For a disk over a base the checkpoint can be one of its snapshots.

Examples:
  ublk-ts changed 0 --since monday
  ublk-ts changed 0 --since before-upgrade        # a snapshot`

interface Flags {
  since: string
  json?: boolean
}

/** Adds `ublk-ts changed`. */
export function addChanged(program: Command): void {
  program
    .command('changed')
    .description('print which parts of a disk were changed since a checkpoint')
    .argument('<device>', 'such as 0, /dev/ublkb0 or the name of a disk')
    .requiredOption('--since <name>', 'the checkpoint')
    .option('-J, --json', 'print one JSON object')
    .addHelpText('after', HELP)
    .action(changed)
}

async function changed(device: string, { since, json = false }: Flags): Promise<void> {
  const id = idOf(device)
  const { UblkDevice } = await loadApi()
  const changes = await (await UblkDevice.open(id)).changed({ since })
  if (json) return await print(toJsonText(changes, 2))
  if (changes.ranges.length === 0) return
  await print(changes.ranges.map(({ offset, length }) => `${offset}+${length}`).join('\n'))
}
