import type { Command } from 'commander'
import type { UblkDevice } from '../device.js'
import { invalid } from '../errors.js'
import type { DiskRange } from '../info.js'
import { parseSize } from '../size.js'
import { longWork } from './long-work.js'
import type { Amount } from './progress.js'

const HELP = `
It ends when all of that is there. A bounded cache (--cache-max) may evict it again.

Example:
  ublk-ts prefetch 0 0+16M 1G+64M`

/** Adds `ublk-ts prefetch`. */
export function addPrefetch(program: Command): void {
  program
    .command('prefetch')
    .description('fetch parts of a lazy disk before they are read')
    .argument('<device>', 'such as 0, /dev/ublkb0 or the name of a disk')
    .argument(
      '[range...]',
      'OFFSET+LENGTH in bytes, or with units, such as 1G+64M (default: all of the disk)',
    )
    .addHelpText('after', HELP)
    .action(prefetch)
}

async function prefetch(device: string, ranges: readonly string[]): Promise<void> {
  const parts = ranges.length > 0 ? ranges.map(parseRange) : undefined
  await longWork(
    device,
    async (disk, signal) => await disk.prefetch(parts, { signal }),
    // Of a part it is not known how much is there.
    async disk => (parts ? undefined : await presentOf(disk)),
  )
}

async function presentOf(disk: UblkDevice): Promise<Amount | undefined> {
  const progress = await disk.lazyProgress()
  return progress && { done: progress.present, size: progress.size }
}

/** Reads `OFFSET+LENGTH`. */
export function parseRange(text: string): DiskRange {
  const [offset, length, ...more] = text.split('+')
  if (!offset || !length || more.length > 0)
    throw invalid(`'${text}' is no range`, 'give OFFSET+LENGTH, such as 0+16M')
  return { offset: parseSize(offset, 'offset'), length: parseSize(length, 'length') }
}
