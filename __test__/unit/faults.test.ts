import test from 'ava'
import { checkPlan, nativeRules } from '../../dist/backends/check-faults.js'
import { PROFILES, type ProfileName } from '../../dist/backends/fault-profiles.js'
import type { FaultPlan, FaultRule } from '../../dist/backends/fault-rules.js'
import { formatFaultRule, parseFaultRule } from '../../dist/backends/fault-text.js'
import { faults } from '../../dist/backends/faults.js'
import { file } from '../../dist/backends/file.js'
import { lazy } from '../../dist/backends/lazy.js'
import { memory } from '../../dist/backends/memory.js'
import { slice } from '../../dist/backends/slice.js'
import { checkStack, drawStack, stackToNative, stackToRecord } from '../../dist/backends/stack.js'
import { tracked } from '../../dist/backends/tracked.js'
import { traceLine } from '../../dist/cli/trace-lines.js'
import type { UblkError } from '../../dist/errors.js'
import { run } from '../support/program.js'

/** What a rule is refused with: the message, and the hint. */
function refusal(rule: object): string {
  try {
    checkPlan([rule as FaultRule], 'faults()')
  } catch (error) {
    const { kind, message, hint } = error as UblkError
    return `${kind}: ${message}; ${hint}`
  }
  return 'it is taken'
}

test('a rule that makes no sense is refused in one line, which says what would', t => {
  for (const [rule, said] of [
    [{ op: 'flush', corrupt: true }, 'rule 0: a flush cannot be corrupted; corrupt is for read, write'],
    [{ op: ['write', 'read'], tear: 512 }, 'rule 0: a read cannot be torn; tear is for write'],
    [
      { op: 'read', lose: true },
      'rule 0: a read cannot be lost; lose is for write, flush, discard, writeZeroes',
    ],
    [
      { op: 'writeZeroes', misdirect: 512 },
      'rule 0: a write of zeroes cannot be misdirected; misdirect is for write',
    ],
    [
      { op: 'trim', hang: true },
      "rule 0: there is no operation 'trim'; there are read, write, flush, discard, writeZeroes",
    ],
    [
      { op: [], hang: true },
      'rule 0: op is an empty list; it can have read, write, flush, discard, writeZeroes',
    ],
    [
      { op: 'write' },
      'rule 0: it does nothing; a rule has one of errno, full, delay, rate, iops, hang, lose, misdirect, tear, corrupt',
    ],
    [{ dealy: 5 }, 'rule 0: it does nothing; did you mean delay?'],
    [{ hang: true, lose: true }, 'rule 0: it has both hang and lose; make two rules of it'],
    [{ hang: true, nht: 1 }, "rule 0: a rule with hang has no 'nht'; did you mean nth?"],
    [
      { errno: 'EIO', burst: 1 },
      "rule 0: a rule with errno has no 'burst'; it can have op, range, meta, sequential, after, nth, every, probability, times, errno",
    ],
    [
      { errno: 'EPERM' },
      "rule 0: errno 'EPERM' is none that the kernel passes on from a disk; these are EIO, ENOMEM, EBUSY, ENODEV, ENOSPC, EBADE, ENODATA, ETIME, ENOLINK, EILSEQ, EOPNOTSUPP, ETIMEDOUT, EREMOTEIO",
    ],
    [{ hang: true, nth: 1, every: 2 }, 'rule 0: nth and every exclude each other; undefined'],
    [{ hang: true, nth: 0 }, 'rule 0: nth must be a whole number from 1 on, not 0; undefined'],
    [{ hang: true, probability: 2 }, 'rule 0: probability must be a number from 0 to 1, not 2; undefined'],
    [{ hang: 1 }, 'rule 0: hang must be true, not 1; leave it out otherwise'],
    [{ tear: 100 }, 'rule 0: tear must be a multiple of 512; disks write whole sectors'],
    [{ misdirect: 0 }, 'rule 0: misdirect must be a multiple of 512, and not 0; disks write whole sectors'],
    [{ rate: 0 }, 'rule 0: rate must not be 0; undefined'],
    [{ iops: 0.5 }, 'rule 0: iops must be a whole number from 1 on, not 0.5; undefined'],
    [
      { delay: '5 days' },
      "rule 0: delay must be a time of at most a day, not '5 days'; such as 5 (milliseconds), '80us' or '2s'",
    ],
    [{ delay: { from: 5, to: 1 } }, 'rule 0: its delay ends before it begins; from is the shorter time'],
    [
      { delay: { mean: 5 } },
      "rule 0: its delay needs from and to, or mean and deviation; such as { from: '1ms', to: '5ms' }",
    ],
    [
      { op: 'flush', hang: true, range: { offset: 0, length: 512 } },
      'rule 0: a flush has no range; it concerns all of the disk',
    ],
    [
      { op: 'flush', lose: true, meta: true },
      'rule 0: a flush has no meta; a file system marks only what it reads and writes',
    ],
    [
      { op: 'flush', lose: true, sequential: false },
      'rule 0: a flush has no sequential; only requests with a place on the disk do',
    ],
    [
      { hang: true, range: { offset: 0 } },
      "rule 0: its range needs offset and length; such as { offset: 0, length: '1M' }",
    ],
  ] as const) {
    t.is(refusal(rule), `invalid: ${said}`)
  }
  const wrong = (plan: unknown): UblkError | undefined =>
    t.throws<UblkError>(() => checkPlan(plan as FaultPlan, 'faults()'))
  t.is(wrong([{ hang: true }, 5])?.message, 'rule 1: it must be an object, not 5')
  t.is(wrong({ profile: 'floppy' })?.hint, 'there are hdd-7200, ssd-sata-consumer, nvme-plp, cloud-volume')
  t.is(wrong({ rule: [] })?.message, "faults() has no option 'rule'")
  t.is(wrong({ seed: -1 })?.message, 'the seed must be a whole number from 0 on, not -1')
  t.is(wrong(Array(33).fill({ hang: true }))?.message, '33 rules are too many')
})

test('rules reach the native part in bytes and nanoseconds', t => {
  const native = (rule: FaultRule): unknown => nativeRules({ rules: [rule] })[0]
  t.deepEqual(native({ op: 'write', range: { offset: '1M', length: '4K' }, nth: 3, errno: 'ENOSPC' }), {
    ops: ['write'],
    from: 2 ** 20,
    to: 2 ** 20 + 4096,
    nth: 3,
    effect: { fail: { errno: 28 } },
  })
  t.deepEqual(native({ delay: { from: '80us', to: 1.5 }, inTurn: true }), {
    ops: ['read', 'write', 'flush', 'discard', 'writeZeroes'],
    effect: { delay: { time: { uniform: [80_000, 1_500_000] }, in_turn: true } },
  })
  t.deepEqual(native({ op: 'read', rate: '1M', burst: '16M' }), {
    ops: ['read'],
    effect: { rate: { per_second: 2 ** 20, burst: 2 ** 24 } },
  })
  t.deepEqual(native({ lose: true, meta: true }), {
    ops: ['write', 'flush', 'discard', 'writeZeroes'],
    meta: true,
    effect: { lose: {} },
  })
})

test('a rule of the command line is the rule of a program, and is written as it was read', t => {
  const rules: [text: string, rule: FaultRule][] = [
    ['op=write,nth=3,errno=EIO', { op: 'write', nth: 3, errno: 'EIO' }],
    [
      'op=read+write,range=1M+4K,corrupt',
      { op: ['read', 'write'], range: { offset: '1M', length: '4K' }, corrupt: true },
    ],
    ['op=flush,hang,times=1', { op: 'flush', hang: true, times: 1 }],
    ['delay=1ms..20ms,probability=0.5', { delay: { from: '1ms', to: '20ms' }, probability: 0.5 }],
    ['delay=5ms~1ms,inTurn', { delay: { mean: '5ms', deviation: '1ms' }, inTurn: true }],
    ['iops=300,burst=5400000', { iops: 300, burst: 5_400_000 }],
    ['meta=false,lose', { meta: false, lose: true }],
  ]
  for (const [text, rule] of rules) {
    t.deepEqual(parseFaultRule(text), rule)
    t.is(formatFaultRule(rule), text)
  }
  t.deepEqual(parseFaultRule('{"op":"write","tear":512}'), { op: 'write', tear: 512 })
  t.is(t.throws<UblkError>(() => parseFaultRule('op=flush,tear=512'))?.message, 'a flush cannot be torn')
  t.is(t.throws<UblkError>(() => parseFaultRule('{'))?.message, 'it is not JSON')
})

test('the rules of the command line are refused before anything is created', async t => {
  const refused = async (...words: string[]): Promise<string> => (await run(...words)).stderr
  t.is(
    await refused('create', '--mem', '1M', '--fault', 'op=flush,corrupt'),
    "ublk-ts: option '--fault <rule>' argument 'op=flush,corrupt' is invalid. a flush cannot be corrupted\n",
  )
  t.regex(
    await refused('create', '--mem', '1M', '--profile', 'tape'),
    /^ublk-ts: there is no profile 'tape'; there are hdd-7200/,
  )
  t.regex(
    await refused('create', '--worker', 'a.js', '--fault', 'hang'),
    /^ublk-ts: --fault is only for --mem, --null/,
  )
  t.regex(await refused('fault', '0', 'hang', '--clear'), /^ublk-ts: --clear is not for rules/)
})

test('a disk with faults can be where the disk below it can', t => {
  const fetch = (): Uint8Array => new Uint8Array(0)
  const check = (backend: unknown): unknown => checkStack(backend)
  for (const disk of [memory('1M'), lazy({ size: '1M', fetch }), tracked(memory('1M'), { map: 'a.map' })]) {
    t.notThrows(() => check(faults(disk)))
  }
  t.notThrows(() => check(slice(faults(memory('1M')), { offset: 0 })))
  t.notThrows(() => check(tracked(faults(memory('1M')), { map: 'a.map' })))
  for (const below of [lazy({ size: '1M', fetch }), tracked(memory('1M'), { map: 'a.map' })]) {
    const { message } = t.throws<UblkError>(() => check(slice(faults(below), { offset: 0 }))) as UblkError
    t.is(message, `a ${below.kind} disk cannot be below a slice`)
  }
  t.throws(() => check(faults({ kind: 'worker' } as never)), { message: /cannot be below a faults/ })
})

test('a record has the rules as they were given, and the native part gets those of the profile, too', t => {
  const backend = faults(file(`${process.cwd()}/a.img`), {
    rules: [{ lose: true }],
    profile: 'hdd-7200',
    seed: 7,
  })
  const recorded = stackToRecord(backend) as unknown as typeof backend
  t.deepEqual([recorded.rules, recorded.profile, recorded.seed], [[{ lose: true }], 'hdd-7200', 7])
  t.deepEqual(checkStack(recorded), backend as never)
  const native = stackToNative(backend) as unknown as { rules: object[]; seed: number }
  t.is(native.rules.length, 1 + PROFILES['hdd-7200'].rules.length)
  t.is(native.seed, 7)
  t.deepEqual(drawStack(backend), ['faults 1 rule, hdd-7200', `└─ file ${process.cwd()}/a.img`])
})

test('every profile is a plan, and names where its figures come from', t => {
  for (const [name, { rules, sources }] of Object.entries(PROFILES)) {
    t.notThrows(() => checkPlan({ profile: name as ProfileName }, 'faults()'))
    t.true(rules.length > 0 && sources.length > 0)
  }
})

test('a line of a trace names the rules that were applied', t => {
  const record = {
    time: 0,
    queue: 0,
    tag: 1,
    op: 'read',
    offset: 0,
    length: 512,
    fua: false,
    meta: false,
  } as const
  const rest = { failFast: false, swap: false, done: 0, error: 'EIO', faults: [0, 31], latency: 2 }
  t.regex(traceLine({ ...record, ...rest }), / read 0\+512 2us EIO rule 0,31$/)
})
