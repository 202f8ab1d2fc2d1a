import type { Command } from 'commander'
import type { Checkpoint } from '../info.js'
import { addNamed } from './named.js'
import type { Column } from './table.js'

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

/** Adds `ublk-ts checkpoint` and `ublk-ts checkpoints`. */
export function addCheckpoint(program: Command): void {
  addNamed(program, {
    one: 'checkpoint',
    all: 'checkpoints',
    summaries: [
      'make a checkpoint of a disk, for ublk-ts changed',
      'list the checkpoints of a disk, the oldest first',
    ],
    name: 'its name',
    removal: 'remove it instead',
    help: HELP,
    columns: checkpointColumns,
    make: async (disk, name) => await disk.checkpoint(name),
    remove: async (disk, name) => await disk.removeCheckpoint(name),
    list: async disk => await disk.checkpoints(),
  })
}
