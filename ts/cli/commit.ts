import type { Command } from 'commander'
import { loadApi } from './load-api.js'

const HELP = `
Neither may be served. The base then has the content that the disk had. Other uppers over the same base cannot be used any
more, and are refused. If it is interrupted, nothing is lost: run it again.

Example:
  ublk-ts delete 0
  ublk-ts commit vm1.cow --into base.img`

/** Adds `ublk-ts commit`. */
export function addCommit(program: Command): void {
  program
    .command('commit')
    .description('put what was written to an overlay into the file of its base, and remove the upper')
    .argument('<upper>', 'the upper, such as vm1.cow')
    .requiredOption('--into <base>', 'its base: the file or block device over which it was made')
    .option(
      '-f, --force',
      'even if it is over snapshots, or the base is a block device: other uppers are spoilt then',
    )
    .addHelpText('after', HELP)
    .action(commit)
}

async function commit(
  upper: string,
  { into, force = false }: { into: string; force?: boolean },
): Promise<void> {
  const { commitOverlay } = await loadApi()
  const { interrupts } = await import('../daemon/interrupts.js')
  const { first: signal } = interrupts({ hangup: 'end' })
  await commitOverlay(upper, into, { force, signal })
}
