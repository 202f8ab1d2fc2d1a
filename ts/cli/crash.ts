import type { Command } from 'commander'
import { addExport } from './crash/export.js'
import { addMark } from './crash/mark.js'
import { addRecord } from './crash/record.js'
import { addReplay } from './crash/replay.js'
import { addStates } from './crash/states.js'

const HELP = `
A disk of crash record keeps every version of what is written to it. Use it, and set a mark when something is promised; crash export
writes what was recorded to a file, the log. crash states then tries states in which a power cut may leave the disk.

Example:
  disk=$(ublk-ts crash record --mem 64M)
  ./workload "$disk"                       # with: ublk-ts crash mark "$disk" 'paid 17'
  ublk-ts crash export "$disk" run.log --delete
  ublk-ts crash states run.log -- ./check {}`

/** Adds `ublk-ts crash` and its commands. */
export function addCrash(program: Command): void {
  const crash = program
    .command('crash')
    .description('find out whether what is on a disk survives power cuts')
    .helpCommand(false)
    .enablePositionalOptions()
    .addHelpText('after', HELP)
  for (const add of [addRecord, addMark, addExport, addStates, addReplay]) add(crash)
}
