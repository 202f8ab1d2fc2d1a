import { parseArgs } from 'node:util'
import { parseWorkload } from './fio.js'
import { SUITES } from './suites.js'

export const USAGE = `usage: bench/run [OPTION...]

Measures disks of ublk-ts against others in one boot of the lab's machine. Rounds alternate between the disks, so that
what disturbs one disturbs the others; figures are medians, and ratios are medians of the ratios of neighbouring rounds.
It measures and never judges.

  --suite engine   our disks, against kublk, the server of the kernel's own ublk self-tests (this is the default)
  --suite js       disks written in JavaScript, against our memory disk, and against NBD servers in C, Python and
                   JavaScript with the kernel's NBD client, at iodepth 64
  --suite threads  our memory disk with threads of its own, against one whose threads serve 63 idle disks too, or could;
                   and what many devices cost, in one process and in many
  --rounds N       rounds of each workload and disk (11)
  --seconds S      length of a round (1)
  --only PART,...  engine: io, calls, create, memory; js: io, calls; threads: io, calls, many (all)
  --targets T,...  engine: null, memory; js: js-sync, js-batch, js-async, nbd-node, nbdkit-memory, nbdkit-python,
                   and null-block, the kernel's null_blk: no disk can be faster; threads: shared, crowd (all)
  --workloads W,.. PATTERN-BLOCK-IODEPTH, such as randread-4k-64 or write-128k-8
                   (randread and randwrite, 4k, 1 and 64; js: also read and write, 128k, 8). With -pinned behind it,
                   the load and the server share a CPU: where one waits for the other, that is far steadier than
                   what the scheduler makes of it
  --json FILE      also write every figure there
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
  const targets = Object.keys(suite.targets)
  return {
    help: values.help,
    setup: !values['no-setup'],
    json: values.json,
    rounds: positive('rounds', values.rounds, /^[1-9]\d*$/),
    seconds: positive('seconds', values.seconds, /^\d+(\.\d+)?$/),
    suite: values.suite,
    parts: list('only', values.only, suite.parts, part => suite.parts.includes(part)),
    targets: list('targets', values.targets, targets, target => targets.includes(target)),
    workloads: list('workloads', values.workloads, suite.workloads, parseWorkload),
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
        'no-setup': flag,
        help: flag,
      },
    }).values
  } catch (error) {
    throw wrong(error.message)
  }
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
