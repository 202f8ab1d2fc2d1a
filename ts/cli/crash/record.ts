import { type Command, Option } from 'commander'
import type { BaseBackend } from '../../backends/overlay.js'
import { type PowercutOptions, powercut } from '../../backends/powercut.js'
import type { Job } from '../../daemon/job.js'
import { toRecorded } from '../../daemon/recorded-options.js'
import { invalid } from '../../errors.js'
import { parseSeconds } from '../../option-values.js'
import { parseSize } from '../../size.js'
import { addDiskOptions, type DiskFlags, toOptions } from '../create-options.js'
import { reading } from '../option-reader.js'
import { parseSeed } from '../parse-numbers.js'
import { startServing, toServing } from '../serving-options.js'

interface Flags extends DiskFlags {
  log?: string
  logMax?: number
  unit?: string
  seed?: number
  timeout: number
  json?: boolean
}

const HELP = `
The disk begins with zeroes (--mem), or with the content of a disk that stays as it is, such as --file. It is served in the
background; crash export ends the recording, ublk-ts delete without a log. What is recorded is in memory, unless --log says where.

Examples:
  ublk-ts crash record --mem 64M
  ublk-ts crash record --file image --log /var/tmp/recorded --seed 7`

/** Kinds of backends that it does not take: the seed is that of the recording, and its states are not those of a disk with faults. */
const WITHOUT = ['faults', 'worker']

/** Adds `ublk-ts crash record`. */
export function addRecord(crash: Command): void {
  const command = crash
    .command('record')
    .description('make a disk that records what is written to it, in the background; prints its path')
  addDiskOptions(command, WITHOUT)
    .option(
      '--log <path>',
      'keep the data that is recorded in this file, which must not exist, not in memory',
    )
    .option(
      '--log-max <size>',
      'record at most so much data; writes beyond it fail (default: 64G; in memory, at most half of it)',
      reading(text => parseSize(text, 'logMax')),
    )
    .addOption(
      new Option('--unit <bytes>', 'what the disk writes whole or not at all (default: 4096)').choices([
        '512',
        '4096',
      ]),
    )
    .option(
      '--seed <number>',
      'determines which states are tried, unless crash states has another (default: 0)',
      parseSeed,
    )
    .option(
      '-t, --timeout <seconds>',
      'how long the disk may take to become usable',
      reading(parseSeconds),
      60,
    )
    .option('-J, --json', 'print one line of JSON instead of the path')
    .addHelpText('after', HELP)
    .action(record)
}

async function record({ log, logMax, unit, seed, timeout, json, ...disk }: Flags): Promise<void> {
  if (disk.recovery !== undefined) {
    throw invalid('--recovery is not for crash record', 'what is recorded is lost with the server')
  }
  const { options, scratch } = toOptions(disk, { lasting: false })
  const recorder = powercut({
    ...beginning(options.backend as BaseBackend),
    ...(unit !== undefined && { unit: Number(unit) as 512 | 4096 }),
    ...(seed !== undefined && { seed }),
    ...(log !== undefined && { log }),
    ...(logMax !== undefined && { logMax }),
  })
  const job: Job = {
    ...toServing({ detach: true, timeout, ...(json && { json }) }),
    action: 'create',
    id: disk.id,
    options: toRecorded({ ...options, backend: recorder }),
    scratch,
  }
  await startServing(job, { detached: true })
}

/** An empty disk in memory needs no disk below. */
function beginning(backend: BaseBackend): Pick<PowercutOptions, 'size' | 'over'> {
  const isEmpty = backend.kind === 'memory' && backend.file === undefined
  return isEmpty ? { size: backend.size } : { over: backend }
}
