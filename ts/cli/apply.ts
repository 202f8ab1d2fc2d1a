import type { Command } from 'commander'
import { loadApi } from './load-api.js'

const HELP = `
All of a stream is checked before anything is changed; of a raw file, its size and its list are. If it is interrupted, the
copy has a part of the diff: apply it again. That the copy is of the right disk and checkpoint is not checked, only its size.

Example:
  cp --sparse=always monday.img copy.img
  ublk-ts apply tuesday.diff --to copy.img`

/** Adds `ublk-ts apply`. */
export function addApply(program: Command): void {
  program
    .command('apply')
    .description('put a diff into a copy of the disk as it was at the checkpoint')
    .argument('<diff>', 'what ublk-ts diff has written: a stream, or a raw file with its list')
    .requiredOption('--to <path>', 'the copy: a file that nobody serves, or a block device that nobody uses')
    .addHelpText('after', HELP)
    .action(apply)
}

async function apply(diff: string, { to }: { to: string }): Promise<void> {
  const { applyDiff } = await loadApi()
  const { interrupts } = await import('../daemon/interrupts.js')
  const { first: signal } = interrupts({ hangup: 'end' })
  await applyDiff(diff, to, { signal })
}
