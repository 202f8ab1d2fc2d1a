import type { Command } from 'commander'
import type { Checkpoint } from '../info.js'
import { toJsonText } from '../json.js'
import { idOf } from '../remote/names.js'
import { loadApi } from './load-api.js'
import { print } from './output.js'
import {
  addListingOptions,
  type Column,
  formatTable,
  type ListingOptions,
  selectColumns,
  toJson,
} from './table.js'

const HELP = `
The disk has to be created with --track. A checkpoint is one instant: data that a mounted file system has not written
to the disk yet is newer. Before a backup, freeze the file system with fsfreeze, or sync it. A snapshot of such a disk
makes a checkpoint as well.

Example:
  ublk-ts checkpoint 0 monday`

/** Its columns. */
export const checkpointColumns: readonly Column<Checkpoint>[] = [
  { name: 'NAME', summary: 'its name', value: ({ name }) => name },
  { name: 'MADE', summary: 'when it was made', value: ({ made }) => new Date(made).toISOString() },
  { name: 'KNOWN', summary: 'whether it is known what was changed since', value: ({ known }) => known },
]
const allColumns = checkpointColumns.map(({ name }) => name)

/** Adds `ublk-ts checkpoint` and `ublk-ts checkpoints`. */
export function addCheckpoint(program: Command): void {
  program
    .command('checkpoint')
    .description('make a checkpoint of a disk, for ublk-ts changed')
    .argument('<device>', 'such as 0, /dev/ublkb0 or the name of a disk')
    .argument('<name>', 'its name')
    .option('--remove', 'remove it instead')
    .addHelpText('after', HELP)
    .action(checkpoint)
  const listing = program
    .command('checkpoints')
    .description('list the checkpoints of a disk, the oldest first')
    .argument('<device>', 'such as 0, /dev/ublkb0 or the name of a disk')
  addListingOptions(listing, checkpointColumns, allColumns, 'ublk-ts checkpoints 0').action(list)
}

async function checkpoint(
  device: string,
  name: string,
  { remove = false }: { remove?: boolean },
): Promise<void> {
  const id = idOf(device)
  const { UblkDevice } = await loadApi()
  const disk = await UblkDevice.open(id)
  await (remove ? disk.removeCheckpoint(name) : disk.checkpoint(name))
}

async function list(device: string, options: ListingOptions): Promise<void> {
  const id = idOf(device)
  const selected = selectColumns(checkpointColumns, allColumns, options)
  const { UblkDevice } = await loadApi()
  const rows = await (await UblkDevice.open(id)).checkpoints()
  if (options.json) return await print(toJsonText(toJson('checkpoints', selected, rows), 2))
  const table = formatTable(selected, rows, options)
  if (table !== '') await print(table)
}
