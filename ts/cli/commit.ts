import type { Command } from 'commander'
import { invalid, UblkError } from '../errors.js'
import { idOf } from '../remote/names.js'
import { loadApi } from './load-api.js'
import { shown } from './progress.js'
import { rateOption } from './rate-option.js'

const HELP = `
Without --into, <disk> is a device such as 0 or /dev/ublkb0, which stays in use: its snapshots, and all that was written until
now, are put into the image file that it was made over. What was written since stays in its upper. If it is interrupted, or
the server is killed, nothing is lost: the disk is served as before, and running it again does it again. Show how far it is
with: ublk-ts show -o COMMITTED

With --into, <disk> is the path of an upper, such as vm1.cow or ./0, and nobody serves it or its base. The base then has the
content and the size of the disk, and the upper is removed. If it is interrupted, nothing is lost: run it again.

Other uppers over the same base cannot be used any more, and are refused.

Examples:
  ublk-ts commit 0 --rate 50M
  ublk-ts commit vm1.cow --into base.img          # after: ublk-ts delete 0`

interface Options {
  into?: string
  force?: boolean
  rate?: number
}

/** Adds `ublk-ts commit`. */
export function addCommit(program: Command): void {
  program
    .command('commit')
    .description('put what was written to an overlay into the file of its base')
    .argument(
      '<disk>',
      'a device, such as 0, /dev/ublkb0 or the name of a disk; with --into, the path of an upper',
    )
    .option('--into <base>', 'the base of an upper that is not served: the file or block device below it')
    .addOption(rateOption('of a device: '))
    .option(
      '-f, --force',
      'even if there are snapshots, or the base is a block device: other uppers are spoilt then',
    )
    .addHelpText('after', HELP)
    .action(commit)
}

async function commit(disk: string, { into, force = false, rate }: Options): Promise<void> {
  if (into !== undefined && rate !== undefined) {
    throw invalid('--rate is only for a device', 'leave out --into to commit a disk that is in use')
  }
  const id = into === undefined ? deviceOf(disk) : undefined
  const { commitOverlay, UblkDevice } = await loadApi()
  const { interrupts } = await import('../daemon/interrupts.js')
  const { first: signal } = interrupts({ hangup: 'end' })
  if (into !== undefined) return await commitOverlay(disk, into, { force, signal })
  const device = await UblkDevice.open(id as number)
  const limit = rate === undefined ? {} : { rate }
  const work = device.commit({ ...limit, force, signal }).catch(error => {
    throw interrupted(error)
  })
  await shown(work, async () => await device.committing())
}

/** The server of the disk cannot say what is left to do to a client that has gone. */
export function interrupted(error: unknown): unknown {
  if (!(error instanceof UblkError) || error.kind !== 'cancelled' || error.hint !== undefined) return error
  const hint =
    'commit it again to go on: until then the base may be partly the old one, and of use only to this disk'
  return new UblkError('cancelled', 'the commit was interrupted', { hint, cause: error })
}

function deviceOf(text: string): number {
  try {
    return idOf(text)
  } catch {
    throw invalid(
      `'${text}' is not a ublk device`,
      'name the base of an upper that is not served with --into',
    )
  }
}
