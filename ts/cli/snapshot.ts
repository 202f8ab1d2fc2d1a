import type { Command } from 'commander'
import type { VolumeSnapshot } from '../info.js'
import { addNamed } from './named.js'
import type { Column } from './table.js'

const HELP = `
The snapshot is of one instant, and no request fails or waits. Of an overlay, the upper keeps its path; the snapshot is the
file with .NAME behind that. Of a disk in an object store, ublk-ts create --from or --at uses it. What programs have not
written yet is not in it: sync the file system first, for example with sync -f, or with fsfreeze around the snapshot.

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

/** Adds `ublk-ts snapshot` and `ublk-ts snapshots`. */
export function addSnapshot(program: Command): void {
  addNamed(program, {
    one: 'snapshot',
    all: 'snapshots',
    summaries: [
      "keep the present content of an overlay's disk, or one in an object store, while it is in use",
      'list the snapshots of a disk in an object store, the oldest first',
    ],
    name: 'letters, digits, -, _ and .',
    removal: 'remove it instead: only of a disk in an object store',
    help: HELP,
    columns: snapshotColumns,
    make: async (disk, name) => await disk.snapshot(name),
    remove: async (disk, name) => await disk.removeSnapshot(name),
    list: async disk => await disk.snapshots(),
  })
}
