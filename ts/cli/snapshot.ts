import type { Command } from 'commander'
import type { VolumeSnapshot } from '../info.js'
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
The snapshot is of one instant, and no request fails or waits. Of an overlay, the upper keeps its path; the snapshot is the
file with .NAME behind that. Of a disk in an object store, ublk-ts create --from or --at uses it. What programs have not written yet is not in it: sync the file system first, for example with
sync -f, or with fsfreeze around the snapshot.

If the disk was created with --track as well, this also makes a checkpoint of that name, at the same instant.

Examples:
  ublk-ts create --file base.img --overlay vm1.cow
  ublk-ts snapshot 0 before-upgrade               # vm1.cow.before-upgrade
  ublk-ts reset 0                                 # back to it
  ublk-ts create --s3 s3://a/vm2 --from s3://a/vm1@before-upgrade --cache vm2`

/** Its columns. */
export const snapshotColumns: readonly Column<VolumeSnapshot>[] = [
  { name: 'NAME', summary: 'its name', value: ({ name }) => name },
  { name: 'MADE', summary: 'when it was made', value: ({ made }) => new Date(made).toISOString() },
  { name: 'SIZE', summary: 'the size of the disk', bytes: true, value: ({ size }) => size },
]
const allColumns = snapshotColumns.map(({ name }) => name)

/** Adds `ublk-ts snapshot` and `ublk-ts snapshots`. */
export function addSnapshot(program: Command): void {
  program
    .command('snapshot')
    .description(
      "keep the present content of an overlay's disk, or one in an object store, while it is in use",
    )
    .argument('<device>', 'such as 0, /dev/ublkb0 or the name of a disk')
    .argument('<name>', 'letters, digits, -, _ and .')
    .option('--remove', 'remove it instead: only of a disk in an object store')
    .addHelpText('after', HELP)
    .action(snapshot)
  const listing = program
    .command('snapshots')
    .description('list the snapshots of a disk in an object store, the oldest first')
    .argument('<device>', 'such as 0, /dev/ublkb0 or the name of a disk')
  addListingOptions(listing, snapshotColumns, allColumns, 'ublk-ts snapshots 0').action(list)
}

async function snapshot(
  device: string,
  name: string,
  { remove = false }: { remove?: boolean },
): Promise<void> {
  const id = idOf(device)
  const { UblkDevice } = await loadApi()
  const disk = await UblkDevice.open(id)
  await (remove ? disk.removeSnapshot(name) : disk.snapshot(name))
}

async function list(device: string, options: ListingOptions): Promise<void> {
  const id = idOf(device)
  const selected = selectColumns(snapshotColumns, allColumns, options)
  const { UblkDevice } = await loadApi()
  const rows = await (await UblkDevice.open(id)).snapshots()
  if (options.json) return await print(toJsonText(toJson('snapshots', selected, rows), 2))
  const table = formatTable(selected, rows, options)
  if (table !== '') await print(table)
}
