import { randomUUID } from 'node:crypto'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { type Backend, file, memory, nullDisk, worker } from '../backends.js'
import { invalid } from '../errors.js'
import type { DeviceOptions } from '../options.js'
import type { Pages } from '../pages.js'

/** What the words of `create` say about the disk. */
export interface DiskFlags {
  mem?: string
  memPages?: Pages
  null?: string
  file?: string
  direct?: boolean
  exclusive: boolean
  worker?: string
  workerOptions?: unknown
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

/** Gives a command the options that say what disk to make. */
export function addDiskOptions(command: Command): Command {
  return command
    .option('--mem <size>', 'a disk in memory')
    .option('--mem-pages <how>', 'with --mem, and no file for it: as --buffers, for the disk itself', pages)
    .option('--null <size>', 'a disk that keeps nothing, to measure with')
    .option('--file <path>', 'a disk in an existing file or on another block device')
    .option('--direct', 'with --file: bypass the page cache')
    .option('--no-exclusive', 'with --file: serve it even if it is in use, and do not lock it')
    .option('--worker <module>', 'a disk written in JavaScript: a file, or a URL')
    .option('--worker-options <json>', 'with --worker: what its factory is given', json)
    .option('--id <n>', 'the number in /dev/ublkb<n> (default: a free one)', count)
    .option('--queues <n>', 'hardware queues, 1 to 4096 (default: 1)', count)
    .option('--depth <n>', 'requests per queue, 1 to 4096 (default: 128)', count)
    .addOption(
      new Option(
        '--threads <whose>',
        'a thread for each queue, or a few for all disks of a process (default: own)',
      ).choices(['own', 'shared']),
    )
    .addOption(
      new Option(
        '--transport <how>',
        'a driver command for each request, or, with kernel 7.0, one for many (default: auto)',
      ).choices(['auto', 'per-io', 'batch']),
    )
    .addOption(
      new Option(
        '--copy <how>',
        'who copies data: the driver; the server; or, with --file and kernel 6.16, nobody (default: auto)',
      ).choices(['auto', 'copy', 'user', 'zero']),
    )
    .option(
      '--share <file>',
      'share a file in memory, such as in /dev/shm, with the clients of the disk; can be repeated (kernel 7.1)',
      (path: string, earlier: string[] = []) => [...earlier, resolve(path)],
    )
    .option(
      '--threads-per-queue <n>',
      'own threads for each queue, 1 to 64 (default: 1; more: kernel 6.16)',
      count,
    )
    .option('--no-affinity', 'let the threads of several queues run on any CPU')
    .option(
      '--poll <microseconds>',
      'look for requests so long before sleeping, 0 to 1000 (default: 0)',
      count,
    )
    .option('--buffers <how>', 'memory of requests: prefault, huge-pages, lock, with commas between', pages)
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
    .option('--discard-granularity <size>', 'the smallest area a discard frees')
    .option('--max-discard <size>', 'the largest discard')
    .option('--no-partition-scan', 'do not look for partitions on the disk (kernel 7.0)')
    .addOption(
      new Option(
        '--recovery <mode>',
        'keep the disk when its server dies: what that had taken is requeued, reissued, or everything fails until another comes',
      ).choices(['requeue', 'reissue', 'fail']),
    )
    .option('--request-timeout <seconds>', 'with --worker: when a request fails (default: never)', seconds)
    .option(
      '--stuck-timeout <seconds>',
      'with --worker: when a thread that hangs is ended (default: 30)',
      seconds,
    )
}

/** The words of the command line as options of the API, and files that are to go with the disk. */
export function toOptions(
  flags: DiskFlags,
  { lasting }: { lasting: boolean },
): { options: DeviceOptions; scratch: string[] } {
  const { writeCache, discard, partitionScan, requestTimeout, stuckTimeout } = flags
  const { queues, depth, blockSize, maxIo, readOnly, rotational, discardGranularity, maxDiscard } = flags
  const { recovery, threads, transport, copy, share, affinity, poll, buffers, threadsPerQueue } = flags
  const backend = toBackend(flags, lasting || recovery !== undefined)
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
  const scratch = 'file' in backend && typeof backend.file === 'string' ? [backend.file] : []
  return { options: { backend, ...Object.fromEntries(given) }, scratch }
}

const BACKENDS = ['mem', 'null', 'file', 'worker'] as const

function toBackend(flags: DiskFlags, lasting: boolean): Backend {
  const given = BACKENDS.filter(name => flags[name] !== undefined)
  if (given.length === 0)
    throw invalid('no backend given', 'give --mem SIZE, --null SIZE, --file PATH or --worker MODULE')
  if (given.length > 1)
    throw invalid('more than one backend given', 'give only one of --mem, --null, --file and --worker')
  if (flags.direct && flags.file === undefined) throw invalid('--direct is only for --file')
  if (!flags.exclusive && flags.file === undefined) throw invalid('--no-exclusive is only for --file')
  if (flags.memPages && flags.mem === undefined) throw invalid('--mem-pages is only for --mem')
  for (const name of ['workerOptions', 'requestTimeout', 'stuckTimeout'] as const) {
    if (flags[name] !== undefined && flags.worker === undefined)
      throw invalid(`--${name.replace(/[A-Z]/, letter => `-${letter.toLowerCase()}`)} is only for --worker`)
  }
  if (flags.mem !== undefined)
    return memory(flags.mem, { file: lasting ? memoryFile() : undefined, pages: flags.memPages })
  if (flags.null !== undefined) return nullDisk(flags.null)
  if (flags.worker !== undefined) return worker(moduleUrl(flags.worker), flags.workerOptions)
  // Whoever takes it over may be in another directory.
  return file(flags.file === '' || flags.file === undefined ? '' : resolve(flags.file), {
    direct: flags.direct ?? false,
    exclusive: flags.exclusive,
  })
}

/** Where the bytes of a disk in memory outlive their server. */
function memoryFile(): string {
  return `/dev/shm/ublk-ts-${randomUUID()}`
}

function moduleUrl(module: string): string {
  if (module === '') throw invalid('the path of the module is empty')
  return /^(file|data|node):/.test(module) ? module : pathToFileURL(resolve(module)).href
}

function milliseconds(seconds: number | undefined): number | undefined {
  return seconds === undefined ? undefined : Math.round(seconds * 1000)
}

const PAGES = new Map([
  ['prefault', 'prefault'],
  ['huge-pages', 'hugePages'],
  ['lock', 'lock'],
])

function pages(text: string): Pages {
  const wishes = text.split(',').map(name => PAGES.get(name))
  if (wishes.includes(undefined))
    throw new InvalidArgumentError('It must be of prefault, huge-pages and lock, with commas between.')
  return Object.fromEntries(wishes.map(wish => [wish, true]))
}

function count(text: string): number {
  if (/^\d+$/.test(text)) return Number(text)
  throw new InvalidArgumentError('It must be a whole number.')
}

/** Reads a number of seconds. */
export function seconds(text: string): number {
  const value = Number(text)
  // The limit of a timer, in whole seconds.
  if (/^\d+(\.\d+)?$/.test(text) && value <= 2147483) return value
  throw new InvalidArgumentError('It must be a number of seconds.')
}

function json(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    throw new InvalidArgumentError('It must be JSON.')
  }
}
