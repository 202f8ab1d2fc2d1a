import type { Command } from 'commander'
import type { DiffOptions } from '../diff.js'
import { invalid } from '../errors.js'
import { idOf } from '../remote/names.js'
import { loadApi } from './load-api.js'

const HELP = `
The diff is of one instant, and the disk goes on meanwhile. Its file appears when it is complete. A disk over a base that was
made without --track has its snapshots as checkpoints: the diff is then from one to the last.

Formats:
  stream  the changed ranges with checksums, for ublk-ts apply; to standard output with --out -
  raw     a sparse file as large as the disk, with holes where nothing was changed; PATH.json lists what was changed
  qcow2   an image over a copy of the disk as it was at the checkpoint, which --backing names

Examples:
  ublk-ts checkpoint 0 tuesday                    # for the next diff
  ublk-ts diff 0 --since monday --out tuesday.diff
  ublk-ts apply tuesday.diff --to copy-of-monday.img
  ublk-ts diff 0 --since mon --out tue.qcow2 --format qcow2 --backing mon.img
  ublk-ts diff 0 --since monday --out - | ssh backup 'cat >tuesday.diff'`

interface Flags {
  since?: string
  out: string
  format?: string
  backing?: string
  backingFormat?: string
}

/** Adds `ublk-ts diff`. */
export function addDiff(program: Command): void {
  program
    .command('diff')
    .description('write what was changed on a disk since a checkpoint')
    .argument('<device>', 'such as 0, /dev/ublkb0 or the name of a disk')
    .option('--since <name>', 'the checkpoint (default: all of the disk)')
    .requiredOption('--out <path>', 'the file, which must not exist; -: standard output')
    .option('--format <format>', 'stream, raw or qcow2 (default: stream)')
    .option('--backing <path>', 'the backing file that a qcow2 image names')
    .option('--backing-format <format>', 'its format: raw or qcow2 (default: raw)')
    .addHelpText('after', HELP)
    .action(diff)
}

async function diff(device: string, { out, ...flags }: Flags): Promise<void> {
  const id = idOf(device)
  if (out === '-' && process.stdout.isTTY) {
    throw invalid('a diff is not for a terminal', 'name a file, or a program behind a pipe')
  }
  const { UblkDevice } = await loadApi()
  const { interrupts } = await import('../daemon/interrupts.js')
  const { first: signal } = interrupts({ hangup: 'end' })
  const disk = await UblkDevice.open(id)
  await disk.diff({ ...flags, out: out === '-' ? process.stdout : out, signal } as DiffOptions)
}
