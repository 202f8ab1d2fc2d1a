import { resolve } from 'node:path'
import { type Command, InvalidArgumentError, Option } from 'commander'
import type { DeviceOptions } from '../options.js'
import { type Pages, parsePages } from '../pages.js'
import { addBackendOptions, toBackend } from './backend-options.js'
import { reading } from './option-reader.js'

/** The flags of `create` that describe the disk. */
export interface DiskFlags {
  id?: number
  queues?: number
  depth?: number
  blockSize?: string
  maxIo?: string
  readOnly?: boolean
  writeCache?: 'on' | 'off'
  rotational?: boolean
  discard: boolean
  discardGranularity?: string
  maxDiscard?: string
  partitionScan: boolean
  threads?: 'own' | 'shared'
  transport?: NonNullable<DeviceOptions['transport']>
  copy?: NonNullable<DeviceOptions['copy']>
  share?: string[]
  threadsPerQueue?: number
  affinity: boolean
  poll?: number
  buffers?: Pages
  recovery?: 'requeue' | 'reissue' | 'fail'
  requestTimeout?: number
  stuckTimeout?: number
}

/** Adds the options that describe the disk to a command. */
export function addDiskOptions(command: Command): Command {
  return addBackendOptions(command)
    .option('--id <n>', 'the number in /dev/ublkb<n> (default: a free one)', count)
    .option('--queues <n>', 'hardware queues, 1 to 4096 (default: 1)', count)
    .option('--depth <n>', 'requests in flight per queue, 1 to 4096 (default: 128)', count)
    .addOption(
      new Option(
        '--threads <whose>',
        'own: a thread for each queue; shared: a few threads for all disks of a process (default: own)',
      ).choices(['own', 'shared']),
    )
    .addOption(
      new Option(
        '--transport <how>',
        'per-io: a driver command for each request; batch: one for many (kernel 7.0) (default: auto)',
      ).choices(['auto', 'per-io', 'batch']),
    )
    .addOption(
      new Option(
        '--copy <how>',
        'copy: the driver copies data; user: the server; zero: nobody, for files (kernel 6.16) (default: auto)',
      ).choices(['auto', 'copy', 'user', 'zero']),
    )
    .option(
      '--share <file>',
      'share a file in memory, such as in /dev/shm, with clients of the disk; may be repeated (kernel 7.1)',
      (path: string, earlier: string[] = []) => [...earlier, resolve(path)],
    )
    .option(
      '--threads-per-queue <n>',
      'threads for each queue, 1 to 64 (default: 1; more: kernel 6.16)',
      count,
    )
    .option('--no-affinity', 'let the threads of several queues run on any CPU')
    .option('--poll <microseconds>', 'busy-poll for this time before sleeping, 0 to 1000 (default: 0)', count)
    .option(
      '--buffers <how>',
      'page options for I/O buffers: prefault, huge-pages, lock, separated by commas',
      reading(parsePages),
    )
    .option('--block-size <size>', '512, 1024, 2048 or 4096 (default: 512)')
    .option('--max-io <size>', 'the largest request, 4K to 32M (default: 512K)')
    .option('--read-only', 'refuse writes')
    .addOption(
      new Option('--write-cache <mode>', 'announce a volatile write cache (default: on with --file)').choices(
        ['on', 'off'],
      ),
    )
    .option('--rotational', 'announce that seeking is slow')
    .option('--no-discard', 'refuse discards')
    .option('--discard-granularity <size>', 'the smallest area that a discard frees')
    .option('--max-discard <size>', 'the largest discard')
    .option('--no-partition-scan', 'do not look for partitions on the disk (kernel 7.0)')
    .addOption(
      new Option(
        '--recovery <mode>',
        'keep the disk when its server dies; requeue: its requests in flight fail; reissue: they are sent again; fail: all requests fail until it is recovered',
      ).choices(['requeue', 'reissue', 'fail']),
    )
}

/** Converts the command line's flags to options of the API. `scratch`: the files to remove together with the disk. */
export function toOptions(
  flags: DiskFlags,
  { lasting }: { lasting: boolean },
): { options: DeviceOptions; scratch: string[] } {
  const { writeCache, discard, partitionScan, requestTimeout, stuckTimeout } = flags
  const { queues, depth, blockSize, maxIo, readOnly, rotational, discardGranularity, maxDiscard } = flags
  const { recovery, threads, transport, copy, share, affinity, poll, buffers, threadsPerQueue } = flags
  const scratch: string[] = []
  const backend = toBackend({ ...flags }, lasting || recovery !== undefined, path => scratch.push(path))
  const wished = {
    queues,
    depth,
    blockSize,
    maxIo,
    readOnly,
    rotational,
    discardGranularity,
    maxDiscard,
    recovery,
    threads,
    transport,
    copy,
    share,
    threadsPerQueue,
    poll,
    buffers,
    affinity: affinity ? undefined : false,
    writeCache: writeCache && writeCache === 'on',
    discard: discard ? undefined : false,
    partitionScan: partitionScan ? undefined : false,
    requestTimeout: milliseconds(requestTimeout),
    stuckTimeout: milliseconds(stuckTimeout),
  }
  const given = Object.entries(wished).filter(([, value]) => value !== undefined)
  return { options: { backend, ...Object.fromEntries(given) }, scratch }
}

function milliseconds(seconds: number | undefined): number | undefined {
  return seconds === undefined ? undefined : Math.round(seconds * 1000)
}

function count(text: string): number {
  if (/^\d+$/.test(text)) return Number(text)
  throw new InvalidArgumentError('It must be a whole number.')
}
