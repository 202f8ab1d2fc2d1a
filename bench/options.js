import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { parseWorkload } from './fio.js'
import { SUITES, targetsOf } from './suites.js'

const HEATS = Object.keys(SUITES.race.heats).join(', ')

export const USAGE = `usage: bench/run [OPTION...]

Measures disks of ublk-ts against others in one boot of the lab's machine. Rounds alternate between the disks, so that
what disturbs one disturbs the others; figures are medians, and ratios are medians of the ratios of neighbouring rounds.
It measures and never judges.

  --suite engine   our disks, against kublk, the server of the kernel's own ublk self-tests (this is the default)
  --suite js       disks written in JavaScript, against our memory disk, and against NBD servers in C, Python and
                   JavaScript with the kernel's NBD client, at iodepth 64
  --suite threads  our memory disk with threads of its own, against one whose threads serve 63 idle disks too, or could;
                   and what many devices cost, in one process and in many
  --suite race     our disks in null, memory and files against kublk, rublk, go-ublk, nbdkit, the kernel's loop device
                   and null_blk; those that do not run are told of. About 12 minutes a round: see docs/performance.md
  --suite stacks   disks made of others: a stripe of two files against kublk's, three slices of a file against the file
  --suite faults   a memory disk with a layer for faults that has no rules, against one without
  --suite crash    a disk that records what is written against one in memory and dm-log-writes; how long it takes to make
                   disks of states after a power cut, and what memory the recorded takes up
  --suite images   a disk in a qcow2 image against one in a file, rublk's, and qemu-nbd with the kernel's NBD client
  --suite nbd      our NBD client against the kernel's, each with an nbdkit that keeps the data in memory
  --suite overlay  overlays against a file, dm-snapshot, qemu-nbd, rublk's qcow2 and ours; first writes, clones
  --suite builds   our null, memory and file disks against those of another build, which --other names
  --suite attach   how long it takes to make a disk and to delete it, alone, with others at once, and beside 1000
  --suite s3       a disk in an object store that is 20 ms away: what a flush costs beside a PUT, what is asked of the store and
                   how many bytes go there, warm reads and local writes beside a file, and the same of nbdkit and s3backer
  --suite growth   what more iodepth, larger buffers and more queues cost, beside kublk; queues are measured in QEMU
  --rounds N       rounds of each workload and disk (11)
  --seconds S      length of a round (1)
  --only PART,...  engine: io, calls, create, memory; js: io, calls; threads: io, calls, many;
                   race, stacks, faults, images, nbd, builds: io, calls, allocations; overlay: these, first and clones;
                   crash: io, states, log; attach: attach; s3: flush, cold, bytes, open, warm, peers, idle (10 minutes); growth: cpu, memory, queues (all)
  --other DIR      builds: the other build's directory, built there with npm run build
  --targets T,...  engine: null, memory; js: js-sync, js-batch, js-async, nbd-node, nbdkit-memory, nbdkit-python,
                   and null-block, the kernel's null_blk: no disk can be faster; threads: shared, crowd;
                   race, stacks, crash, images, overlay, builds: any disk of its tables, or a heat (all): of the race
                   ${HEATS}.
                   A word behind a disk's name says how it is served: perio, batch, copy, user, auto or zero, which are
                   --transport and --copy of ublk-ts create, or the peer's own options; bound, to one CPU; poll,
                   with --poll 50; none, without an I/O scheduler, as ours are anyway
  --workloads W,.. PATTERN-BLOCK-IODEPTH, such as randread-4k-64 or write-128k-8
                   (randread and randwrite, 4k, 1 and 64; js: also read and write, 128k, 8; race: files also 1m, 8).
                   With -pinned behind it, the load and the server share a CPU: where one waits for the other, that is
                   far steadier than what the scheduler makes of it
  --json FILE      also write every figure there
  --svg FILE       race: also draw a chart there
  --no-setup       do not look whether something has to be built
  --help`

/** Ends the program with one line and an exit status. */
export class Failure extends Error {
  constructor(status, message) {
    super(message)
    this.status = status
  }
}

/** Reads the command line. */
export function parseOptions(args) {
  const values = parse(args)
  const suite = SUITES[values.suite]
  if (!suite) throw wrong(`--suite ${values.suite}: there is no such thing`)
  const { heats } = suite
  const targets = targetsOf(values.suite)
  return {
    help: values.help,
    setup: !values['no-setup'],
    json: values.json,
    svg: values.svg,
    other: other(values),
    rounds: positive('rounds', values.rounds, /^[1-9]\d*$/),
    seconds: positive('seconds', values.seconds, /^\d+(\.\d+)?$/),
    suite: values.suite,
    parts: list('only', values.only, suite.parts, part => suite.parts.includes(part)),
    targets: list('targets', values.targets, targets, name => targets.includes(name) || heats[name]).flatMap(
      name => (targets.includes(name) ? name : Object.keys(heats[name].targets)),
    ),
    /** Each heat's own without. */
    workloads: list('workloads', values.workloads, undefined, parseWorkload),
  }
}

function parse(args) {
  const text = { type: 'string' }
  const flag = { type: 'boolean', default: false }
  try {
    return parseArgs({
      args,
      options: {
        suite: { type: 'string', default: 'engine' },
        rounds: { type: 'string', default: '11' },
        seconds: { type: 'string', default: '1' },
        only: text,
        targets: text,
        workloads: text,
        json: text,
        svg: text,
        other: text,
        'no-setup': flag,
        help: flag,
      },
    }).values
  } catch (error) {
    throw wrong(error.message)
  }
}

/** The directory of another build, where one is measured. */
function other({ suite, other: dir }) {
  if ((suite === 'builds') !== (dir !== undefined))
    throw wrong('--other DIR and --suite builds: both or neither')
  if (dir === undefined) return undefined
  const programs = ['dist/bin/ublk-ts.cjs', 'dist/cli/main.js'].map(name => join(resolve(dir), name))
  const program = programs.find(path => existsSync(path)) ?? programs[0] // Older builds have the second one.
  if (!existsSync(program))
    throw wrong(`--other ${dir}: wanted a directory with a build; there is no ${program}`)
  return { dir: resolve(dir), program }
}

function wrong(message) {
  return new Failure(2, `${message} (--help lists the options)`)
}

function positive(name, text, form) {
  if (!form.test(text) || Number(text) === 0) throw wrong(`--${name} ${text}: wanted a number above 0`)
  return Number(text)
}

function list(name, text, all, valid) {
  if (text === undefined) return all
  const items = text.split(',')
  const unknown = items.find(item => !valid(item))
  if (unknown !== undefined) throw wrong(`--${name} ${unknown}: there is no such thing`)
  return items
}
