import { resolve } from 'node:path'
import { checkFunction, checkSignal } from '../check.js'
import { checkDiskName } from '../disk-name.js'
import * as limits from '../limits.js'
import { pagesOf, parsePages } from '../pages.js'
import { checkBackend } from './backend.js'
import type { Option } from './option.js'
import { checkRecord } from './record.js'
import { checkShare } from './share.js'

/** The limit of a timer, in milliseconds. */
const MAX_TIMER = 2 ** 31 - 1

/**
 * All options of `UblkDevice.create()`. From this table come their checks, which of them `recover()` takes and a record
 * holds, their flags, help, manual and completion, and, through scripts/options.mjs, the interfaces in
 * device-options.ts and the rows in docs/options.md. The ranges are those of the engine, which checks them again.
 */
export const OPTIONS: Readonly<Record<string, Option>> = {
  backend: {
    takes: {
      type: 'other',
      name: 'Backend',
      from: '../backends/list.js',
      check: checkBackend,
      words: {
        api:
          '`memory(size)`, `nullDisk(size)`, `file(path, { direct, exclusive })`, ' +
          '`qcow2(path, { backing, exclusive })`, `lazy({ source, cache, cacheMax, fill })` or ' +
          '`lazy({ size, fetch })`, `nbd(uri, { timeout, journal })`, `qemu(driver, { keyFile, direct, exclusive })`, ' +
          '`rbd(image, { user, conf })`, `s3(url, { cache, size, durable })`, `worker(url, options)`, or an object ' +
          'with the methods of a disk; composed of other backends: ' +
          '`stripe(disks, { chunk })`, `concat(disks)`, `mirror(disks, { bitmap })`, `slice(disk, { offset, size })`, ' +
          '`overlay(base, { upper, size })`, `tracked(disk, { map })`, `faults(disk, rules)`, ' +
          '`powercut({ over, replay, unit, seed })`',
      },
    },
    help: 'what stores the bytes',
    required: true,
    scope: 'serve',
    native: false,
  },
  observe: {
    takes: {
      type: 'other',
      name: 'Observe',
      from: '../runtime/observer.js',
      check: value => checkFunction(value, 'observe'),
    },
    help: 'a function that is called with the changes of a disk with a native backend, such as `file` or `lazy`',
    more:
      'It gets every write, discard and write-zeroes that succeeded, many at a time, soon after it was made. If it falls ' +
      'behind by more than 65 536 changes, it gets one change of the whole disk instead. All calls have been made when ' +
      '`stop` or `delete` resolves.',
    byDefault: 'none',
    scope: 'serve',
    native: false,
  },
  id: {
    takes: { type: 'count', min: 0, max: limits.MAX_ID },
    help: "the number in the disk's path, such as 0 for `/dev/ublkb0`",
    byDefault: 'a free one',
    scope: 'create',
    recorded: false,
    cli: { flags: '--id <n>' },
  },
  name: {
    takes: { type: 'other', name: 'string', check: checkDiskName },
    help: 'a name for the disk, such as `db`: it is then also `/dev/ublk/db`, and commands take its name',
    more:
      'A name has 1 to 64 letters, digits, `.`, `-` and `_`. Only root can give one. The link is there as long as the ' +
      'device; another server that takes over the device keeps it.',
    byDefault: 'none',
    scope: 'create',
    native: false,
    cli: { flags: '--name <name>' },
  },
  queues: {
    takes: { type: 'count', min: 1, max: limits.MAX_QUEUES },
    help: 'hardware queues, of which the kernel keeps at most one per CPU',
    more: 'They are served as `threads` says.',
    byDefault: limits.DEFAULT_QUEUES,
    scope: 'create',
    cli: { flags: '--queues <n>' },
  },
  depth: {
    takes: { type: 'count', min: 1, max: limits.MAX_DEPTH },
    help: 'requests in flight on each queue',
    byDefault: limits.DEFAULT_DEPTH,
    scope: 'create',
    cli: { flags: '--depth <n>' },
  },
  blockSize: {
    takes: { type: 'size', rule: { of: limits.BLOCK_SIZES } },
    help: 'the logical block size',
    byDefault: '512, or what a file that is opened with `direct` requires',
    scope: 'create',
    cli: { flags: '--block-size <size>' },
  },
  physicalBlockSize: {
    takes: {
      type: 'size',
      rule: { powerOfTwo: true, min: 'block', max: limits.MAX_PHYSICAL_BLOCK_SIZE },
    },
    help: 'the physical block size',
    byDefault: limits.DEFAULT_PHYSICAL_BLOCK_SIZE,
    scope: 'create',
    cli: { flags: '--physical-block-size <size>' },
  },
  maxIo: {
    takes: {
      type: 'size',
      rule: { multipleOf: limits.MIN_MAX_IO, min: limits.MIN_MAX_IO, max: limits.MAX_MAX_IO },
    },
    help: 'the largest request',
    more: 'Each of `queues × depth` requests has a buffer of this size.',
    byDefault: limits.DEFAULT_MAX_IO,
    scope: 'create',
    cli: { flags: '--max-io <size>' },
  },
  readOnly: {
    takes: { type: 'flag' },
    help: 'refuse writes',
    byDefault: false,
    scope: 'create',
    cli: { flags: '--read-only' },
  },
  writeCache: {
    takes: { type: 'flag' },
    help:
      'announce a volatile write cache, so that the kernel sends flushes; without one, every write is durable when it ' +
      'completes',
    more:
      'This holds for any backend: without a write cache, `flush` of a disk written in JavaScript is called after each ' +
      'write.',
    byDefault:
      'true for a file, a `lazy` disk with a cache, `faults`, `powercut`, and a disk with `flush`; false otherwise',
    scope: 'create',
    cli: { flags: '--write-cache <mode>' },
  },
  rotational: {
    takes: { type: 'flag' },
    help: 'announce that seeking is slow',
    byDefault: false,
    scope: 'create',
    cli: { flags: '--rotational' },
  },
  discard: {
    takes: { type: 'flag' },
    help: 'accept discards',
    byDefault: 'whether the backend supports them',
    scope: 'create',
    cli: { flags: '--no-discard', help: 'refuse discards' },
  },
  discardGranularity: {
    takes: { type: 'size', rule: { multipleOf: 'block', max: limits.MAX_DISCARD_GRANULARITY } },
    help: 'the smallest area that a discard frees',
    byDefault: 'from the backend',
    scope: 'create',
    cli: { flags: '--discard-granularity <size>' },
  },
  maxDiscard: {
    takes: { type: 'size', rule: { multipleOf: 'block', max: limits.MAX_DISCARD } },
    help: 'the largest discard or write-zeroes request',
    byDefault: 'from the backend',
    scope: 'create',
    cli: { flags: '--max-discard <size>' },
  },
  recovery: {
    takes: {
      type: 'choice',
      of: {
        requeue: { help: 'requests in flight fail' },
        reissue: {
          help: 'requests in flight are sent again',
          more: 'Only for a backend that may get the same write twice.',
        },
        fail: { help: 'all requests fail', kernel: '6.13' },
      },
    },
    help: 'keep the disk when its server ends, until another server takes it over',
    more:
      'Without `recovery`, the disk is removed. With it, a new Worker takes over if a Worker ended. After any other ' +
      'failure, also of the process (killed, an uncaught exception, an exit status other than 0), the disk stays until ' +
      'another process takes it over. Until then new requests wait, except with `fail`.',
    byDefault: 'none',
    scope: 'create',
    cli: { flags: '--recovery <mode>' },
  },
  threads: {
    takes: {
      type: 'choice',
      of: {
        own: { help: 'one for each queue', more: 'This is fastest.' },
        shared: {
          help: 'at most four for all devices of a process with this value',
          more:
            'An idle device then needs no thread, and a busy one is nearly as fast, as long as few devices are busy at a ' +
            'time.',
        },
      },
    },
    help: 'which native threads serve the queues of a disk with a native backend',
    byDefault: 'own',
    scope: 'serve',
    cli: { flags: '--threads <whose>' },
  },
  transport: {
    takes: {
      type: 'choice',
      name: "'auto' | Transport",
      from: '../choice.js',
      of: {
        auto: { help: 'the faster one' },
        'per-io': { help: 'each request has its own driver command' },
        batch: {
          help: 'one command for many requests',
          more:
            "One command answers many, and one waits for all new ones. With `recovery` `'requeue'`, a live device with " +
            'this transport cannot be handed over to another server.',
          kernel: '7.0',
        },
      },
    },
    help: 'how requests come from the driver, and answers go back',
    more:
      '{@link UblkDevice.choice} says what a device got and why, {@link autoChoices} what `auto` means on this machine. ' +
      'The transport stays the same when another server takes over the device.',
    byDefault: 'auto',
    scope: 'create',
    cli: { flags: '--transport <how>' },
  },
  copy: {
    takes: {
      type: 'choice',
      name: "'auto' | CopyMode",
      from: '../choice.js',
      of: {
        auto: { help: 'the best that kernel, backend and user allow' },
        copy: {
          help: 'the driver',
          more: "It copies from or to the request's buffer. This works for all users and backends.",
        },
        user: {
          help: 'the server',
          more:
            'It copies through `/dev/ublkcN`: for `memory` without a file, `nullDisk`, and disks written in JavaScript ' +
            '(kernel 6.5).',
        },
        zero: {
          help: 'nobody, for `file`, and `lazy` with a cache',
          more: "The file is read into, and written from, the request's own pages.",
          kernel: '6.16',
        },
      },
    },
    help: 'who copies the data of requests to the backend and back (the copy mode)',
    more:
      '`user` and `zero` need CAP_SYS_ADMIN. The copy mode stays the same when another server takes over the device, and ' +
      'the new backend must support it: a disk in a file that is served with `zero` cannot be recovered with a backend ' +
      'in JavaScript.',
    byDefault: 'auto',
    scope: 'create',
    cli: { flags: '--copy <how>' },
  },
  share: {
    takes: { type: 'other', name: 'string[]', check: checkShare },
    help: 'files in memory, such as in `/dev/shm`, from which clients read and write the disk without a copy',
    more:
      'If a client maps such a file, and reads or writes the disk with direct I/O (`O_DIRECT`) from this mapping, the ' +
      'driver does not copy the data. With an empty list, files can be added later ({@link ServedDevice.share}). ' +
      'Excludes `recovery`. A disk written in JavaScript gets a copy of the data.',
    byDefault: 'none',
    kernel: { version: '7.1' },
    scope: 'create',
    native: false,
    cli: {
      flags: '--share <file>',
      help: 'share a file in memory, such as in `/dev/shm`, with clients of the disk; may be repeated',
      parse: (path, earlier = []) => [...(earlier as string[]), resolve(path)],
    },
  },
  threadsPerQueue: {
    takes: { type: 'count', min: 1, max: limits.MAX_THREADS_PER_QUEUE },
    help: 'threads that serve each queue of a disk with a native backend',
    more:
      'No more than `depth`. Use this for backends that need more parallelism than there are queues. With ' +
      "`transport` `per-io`, the queue's tags are divided among the threads; with `batch`, a thread gets the requests " +
      "that the others are too busy for. More than one needs `threads: 'own'`.",
    byDefault: 1,
    kernel: { version: '6.16', for: 'more than one' },
    scope: 'serve',
    cli: { flags: '--threads-per-queue <n>' },
  },
  affinity: {
    takes: { type: 'flag' },
    help: "pin each queue's thread to the CPUs that send requests to that queue",
    more:
      "It has an effect only for disks with several queues and `threads: 'own'`. A thread is not pinned if the process " +
      'may use none of these CPUs, or the kernel does not report them. A polling thread would take the CPU from the ' +
      'process that sends the requests.',
    byDefault: 'true unless `poll` is set',
    scope: 'serve',
    cli: { flags: '--no-affinity', help: 'let the threads of several queues run on any CPU' },
  },
  poll: {
    takes: { type: 'count', min: 0, max: limits.MAX_POLL, unit: 'microseconds' },
    help: "how long a queue's thread busy-polls for further requests before it sleeps",
    more:
      'This saves the wake-up time if requests follow each other closely, and uses CPU time meanwhile. Polling that ' +
      'finds nothing becomes rare, and an idle disk always sleeps. It excludes `shared` threads, and has no effect if an ' +
      'event loop serves the disk, or the thread may use only one CPU.',
    byDefault: 0,
    scope: 'serve',
    cli: { flags: '--poll <microseconds>' },
  },
  buffers: {
    takes: {
      type: 'other',
      name: 'Pages',
      from: '../pages.js',
      check: value => pagesOf(value, 'buffers'),
      words: {
        api: '`{ prefault, hugePages, lock }`',
        cli: 'prefault, huge-pages, lock, separated by commas',
      },
    },
    help: 'how the pages of the I/O buffers are allocated',
    more: "The buffers have `queues × depth × maxIo` bytes. With `copy: 'zero'` there are no buffers.",
    byDefault: 'each on first use',
    scope: 'serve',
    cli: { flags: '--buffers <how>', parse: parsePages },
  },
  requestTimeout: {
    takes: { type: 'count', min: 1, max: MAX_TIMER, unit: 'milliseconds' },
    help: 'how long a request may take in an asynchronous backend before it fails with ETIMEDOUT',
    more: 'Each request then gets its own buffer, which costs a copy.',
    byDefault: 'forever',
    scope: 'serve',
    native: false,
    cli: { flags: '--request-timeout <seconds>', with: '--worker' },
  },
  stuckTimeout: {
    takes: { type: 'count', min: 0, max: MAX_TIMER, unit: 'milliseconds', zero: 'forever' },
    help: 'how long a Worker with requests may make no progress before it is terminated',
    more: 'It may be in an endless loop, for example.',
    byDefault: 30_000,
    scope: 'serve',
    native: false,
    cli: { flags: '--stuck-timeout <seconds>', with: '--worker' },
  },
  partitionScan: {
    takes: { type: 'flag' },
    help: 'let the kernel look for partitions when the disk appears',
    byDefault: true,
    kernel: { version: '7.0', for: '`false`' },
    scope: 'create',
    cli: { flags: '--no-partition-scan', help: 'do not look for partitions on the disk' },
  },
  timeout: {
    takes: { type: 'count', min: 1, max: MAX_TIMER, unit: 'milliseconds' },
    help: "how long to wait for the kernel's answer to one control command",
    byDefault: 10_000,
    scope: 'serve',
    native: false,
  },
  start: {
    takes: { type: 'flag' },
    help: 'start serving at once',
    more: 'If false, call `start()` later.',
    byDefault: true,
    scope: 'create',
    call: true,
    native: false,
  },
  record: {
    takes: {
      type: 'other',
      name: 'boolean | RecordOptions',
      from: './record.js',
      check: checkRecord,
    },
    help: 'let other processes, such as the command line, query and control this server',
    more: `This writes a record of the device into the run directory, from which another process can recover it, and opens a \
socket there, through which other processes can control this server: \`ublk-ts stats\`, \`resize\` or \`upgrade\`, or a \
handle of {@link UblkDevice.open}. Both are removed together with the device. All options, including those of a Worker, \
must be representable in JSON.

The run directory is \`$UBLK_TS_RUN_DIR\`, else \`/run/ublk-ts\` for root, and \`$XDG_RUNTIME_DIR/ublk-ts\` for other \
users, or \`/tmp/ublk-ts-<uid>\` if \`$XDG_RUNTIME_DIR\` is not set.`,
    byDefault: false,
    scope: 'serve',
    call: true,
    native: false,
  },
  signal: {
    takes: { type: 'other', name: 'AbortSignal', check: checkSignal },
    help: 'aborts the creation, which then leaves nothing behind',
    more: 'It has no effect after the creation.',
    scope: 'serve',
    call: true,
    native: false,
  },
}

/** Those that `recover()` takes, too. */
export const SERVING_OPTIONS: readonly string[] = namesOf(({ scope }) => scope === 'serve')

/** Those that a record holds. */
export const RECORDED_OPTIONS: readonly string[] = namesOf(({ call, recorded = true }) => !call && recorded)

function namesOf(which: (option: Option) => boolean): string[] {
  return Object.entries(OPTIONS).flatMap(([name, option]) => (which(option) ? [name] : []))
}
