/** Checks the rules of a disk with faults, and converts them for the native part. */
import { checkOptions, nearest } from '../check.js'
import { invalid, wrongNumber, wrongType } from '../errors.js'
import type { Json } from '../json.js'
import type { Operation } from '../operation.js'
import { parseSize } from '../size.js'
import { nameOf } from '../user-values.js'
import { PROFILES, type ProfileName } from './fault-profiles.js'
import type { FaultErrno, FaultPlan, FaultRule, FaultTime } from './fault-rules.js'

/** The numbers of the errors that the kernel passes on. */
const ERRNOS: Readonly<Record<FaultErrno, number>> = {
  EIO: 5,
  ENOMEM: 12,
  EBUSY: 16,
  ENODEV: 19,
  ENOSPC: 28,
  EBADE: 52,
  ENODATA: 61,
  ETIME: 62,
  ENOLINK: 67,
  EILSEQ: 84,
  EOPNOTSUPP: 95,
  ETIMEDOUT: 110,
  EREMOTEIO: 121,
}

const ALL: readonly Operation[] = ['read', 'write', 'flush', 'discard', 'writeZeroes']

/** A rule whose values are not checked yet. */
type Fields = { readonly [name: string]: unknown }

interface Effect {
  /** The operations to which it can happen. */
  readonly ops: readonly Operation[]
  /** Further fields of the rule. */
  readonly more?: readonly string[]
  /** What is wrong with an operation that is not one of these, after its name and "cannot". */
  readonly verb: string
  readonly toNative: (value: unknown, rule: Fields) => Json
}

const flag = (name: string) => (value: unknown) => {
  if (value !== true) throw wrongType(`${name} must be true, not ${nameOf(value)}`, 'leave it out otherwise')
  return { [name]: {} }
}

const EFFECTS: Readonly<Record<string, Effect>> = {
  errno: { ops: ALL, verb: 'fail', toNative: value => ({ fail: { errno: errnoOf(value) } }) },
  full: {
    ops: ['write', 'writeZeroes'],
    verb: 'fill the disk',
    toNative: value => ({ full: { bytes: parseSize(value as string, 'full') } }),
  },
  delay: {
    ops: ALL,
    more: ['inTurn'],
    verb: 'be delayed',
    toNative: (value, { inTurn = false }) => {
      if (typeof inTurn !== 'boolean') throw wrongType(`inTurn must be true or false, not ${nameOf(inTurn)}`)
      return { delay: { time: timesOf(value), in_turn: inTurn } }
    },
  },
  rate: {
    ops: ['read', 'write'],
    more: ['burst'],
    verb: 'have a rate in bytes',
    toNative: (value, { burst }) => {
      const bytes = atLeastOne(parseSize(value as string, 'rate'), 'rate')
      const saved = burst === undefined ? 0 : parseSize(burst as string, 'burst')
      return { rate: { per_second: bytes, burst: saved } }
    },
  },
  iops: {
    ops: ALL,
    more: ['burst'],
    verb: 'be counted',
    toNative: (value, { burst = 0 }) => ({
      requests: { per_second: whole(value, 'iops', 1), burst: whole(burst, 'burst', 0) },
    }),
  },
  hang: { ops: ALL, verb: 'hang', toNative: flag('hang') },
  lose: { ops: ALL.filter(op => op !== 'read'), verb: 'be lost', toNative: flag('lose') },
  misdirect: {
    ops: ['write'],
    verb: 'be misdirected',
    toNative: value => ({ misdirect: { bytes: sectors(value, 'misdirect') } }),
  },
  tear: {
    ops: ['write'],
    verb: 'be torn',
    toNative: value => ({ tear: { bytes: sectors(value, 'tear', 0) } }),
  },
  corrupt: { ops: ['read', 'write'], verb: 'be corrupted', toNative: flag('corrupt') },
}

const CONDITIONS = 'op range meta sequential after nth every probability times'.split(' ')

/** The most rules: a bit of a trace record stands for each. */
const MOST = 32

/**
 * Checks a plan, or a list of rules, and returns a plan.
 *
 * @param what - What takes it, such as `faults()`.
 * @throws UblkError of kind `invalid`.
 */
export function checkPlan(given: readonly FaultRule[] | FaultPlan | undefined, what: string): FaultPlan {
  const plan = Array.isArray(given) ? { rules: given as readonly FaultRule[] } : (given ?? {})
  checkOptions<FaultPlan>(plan, what, { rules: true, profile: true, seed: true })
  const { rules = [], profile, seed } = plan
  if (!Array.isArray(rules)) {
    throw wrongType(
      `the rules must be a list, not ${nameOf(rules)}`,
      "such as [{ op: 'write', errno: 'EIO' }]",
    )
  }
  if (profile !== undefined) checkProfile(profile)
  if (seed !== undefined) whole(seed, 'the seed', 0)
  const checked: FaultPlan = {
    rules: [...rules],
    ...(profile === undefined ? {} : { profile }),
    ...(seed === undefined ? {} : { seed }),
  }
  const all = rulesOf(checked)
  if (all.length > MOST) throw invalid(`${all.length} rules are too many`, `at most ${MOST} are possible`)
  nativeRules(checked)
  return checked
}

/**
 * Checks the name of a profile.
 *
 * @throws UblkError of kind `invalid`.
 */
export function checkProfile(name: unknown): asserts name is ProfileName {
  if (typeof name === 'string' && Object.hasOwn(PROFILES, name)) return
  throw invalid(`there is no profile ${nameOf(name)}`, `there are ${Object.keys(PROFILES).join(', ')}`)
}

/** The rules of a plan, then those of its profile. */
export function rulesOf({ rules = [], profile }: FaultPlan): readonly FaultRule[] {
  return profile === undefined ? rules : [...rules, ...PROFILES[profile].rules]
}

/**
 * All rules of a plan for the native part.
 *
 * @throws UblkError of kind `invalid`, which names the rule.
 */
export function nativeRules(plan: FaultPlan): Json[] {
  return rulesOf(plan).map((rule, at) => {
    try {
      return nativeRule(rule)
    } catch (error) {
      const { message, hint } = error as { message: string; hint?: string }
      throw invalid(`rule ${at}: ${message}`, hint)
    }
  })
}

function nativeRule(rule: unknown): Json {
  if (typeof rule !== 'object' || rule === null || Array.isArray(rule)) {
    throw invalid(
      `it must be an object, not ${nameOf(rule)}`,
      "such as { op: 'write', nth: 3, errno: 'EIO' }",
    )
  }
  const given = Object.fromEntries(Object.entries(rule).filter(([, value]) => value !== undefined)) as Fields
  const [name, effect] = effectOf(given)
  checkNames(given, name, effect)
  const { range, meta, sequential, after, nth, every, probability, times } = given
  const ops = operations(given['op'], name, effect)
  if (ops.every(op => op === 'flush')) checkFlush(given)
  if (nth !== undefined && (every !== undefined || probability !== undefined)) {
    throw invalid(`nth and ${every === undefined ? 'probability' : 'every'} exclude each other`)
  }
  const count = (value: unknown, name: string, least: number): number | undefined =>
    value === undefined ? undefined : whole(value, name, least)
  const fields = {
    ops: [...ops],
    ...rangeOf(range),
    meta: boolean(meta, 'meta'),
    sequential: boolean(sequential, 'sequential'),
    after: count(after, 'after', 0),
    nth: count(nth, 'nth', 1),
    every: count(every, 'every', 1),
    probability: probable(probability),
    times: count(times, 'times', 1),
    effect: effect.toNative(given[name], given),
  }
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as Json
}

function effectOf(rule: Fields): [name: string, effect: Effect] {
  const found = Object.entries(EFFECTS).filter(([name]) => rule[name] !== undefined)
  const [first, second] = found
  const hint = `a rule has one of ${Object.keys(EFFECTS).join(', ')}`
  if (!first) {
    const near = Object.keys(rule).flatMap(name => nearest(name, Object.keys(EFFECTS)) ?? [])[0]
    throw invalid('it does nothing', near === undefined ? hint : `did you mean ${near}?`)
  }
  if (second) throw invalid(`it has both ${first[0]} and ${second[0]}`, 'make two rules of it')
  return first
}

function checkNames(rule: Fields, name: string, { more = [] }: Effect): void {
  const known = [...CONDITIONS, name, ...more]
  const unknown = Object.keys(rule).find(each => !known.includes(each))
  if (unknown === undefined) return
  const near = nearest(unknown, known)
  throw invalid(
    `a rule with ${name} has no ${nameOf(unknown)}`,
    near === undefined ? `it can have ${known.join(', ')}` : `did you mean ${near}?`,
  )
}

/** What a rule that is only for flushes cannot ask for: no flush would meet it. */
function checkFlush({ range, meta, sequential }: Fields): void {
  if (range !== undefined) throw invalid('a flush has no range', 'it concerns all of the disk')
  if (meta !== undefined)
    throw invalid('a flush has no meta', 'a file system marks only what it reads and writes')
  if (sequential !== undefined)
    throw invalid('a flush has no sequential', 'only requests with a place on the disk do')
}

function operations(op: unknown, name: string, { ops, verb }: Effect): readonly Operation[] {
  if (op === undefined) return ops
  const wanted: readonly unknown[] = Array.isArray(op) ? op : [op]
  if (wanted.length === 0) throw invalid('op is an empty list', `it can have ${ALL.join(', ')}`)
  for (const each of wanted) {
    if (!ALL.includes(each as Operation)) {
      throw invalid(`there is no operation ${nameOf(each)}`, `there are ${ALL.join(', ')}`)
    }
    if (!ops.includes(each as Operation)) {
      const what = each === 'writeZeroes' ? 'a write of zeroes' : `a ${each}`
      throw invalid(`${what} cannot ${verb}`, `${name} is for ${ops.join(', ')}`)
    }
  }
  return wanted as readonly Operation[]
}

function rangeOf(range: unknown): { from?: number; to?: number } {
  if (range === undefined) return {}
  const { offset, length } = (range ?? {}) as { offset?: string; length?: string }
  if (offset === undefined || length === undefined) {
    throw invalid('its range needs offset and length', "such as { offset: 0, length: '1M' }")
  }
  const from = parseSize(offset, 'offset')
  return { from, to: from + atLeastOne(parseSize(length, 'length'), 'length') }
}

function errnoOf(value: unknown): number {
  if (typeof value === 'string' && Object.hasOwn(ERRNOS, value)) return ERRNOS[value as FaultErrno]
  throw invalid(
    `errno ${nameOf(value)} is none that the kernel passes on from a disk`,
    `these are ${Object.keys(ERRNOS).join(', ')}`,
  )
}

function timesOf(delay: unknown): Json {
  if (typeof delay !== 'object' || delay === null) return { fixed: nanoseconds(delay, 'delay') }
  const { from, to, mean, deviation } = delay as {
    from?: FaultTime
    to?: FaultTime
    mean?: FaultTime
    deviation?: FaultTime
  }
  if (from !== undefined && to !== undefined) {
    const least = nanoseconds(from, 'from')
    const most = nanoseconds(to, 'to')
    if (least > most) throw invalid('its delay ends before it begins', 'from is the shorter time')
    return { uniform: [least, most] }
  }
  if (mean !== undefined && deviation !== undefined) {
    return { normal: [nanoseconds(mean, 'mean'), nanoseconds(deviation, 'deviation')] }
  }
  throw invalid('its delay needs from and to, or mean and deviation', "such as { from: '1ms', to: '5ms' }")
}

const UNITS: Readonly<Record<string, number>> = {
  ns: 1,
  us: 1e3,
  µs: 1e3,
  ms: 1e6,
  s: 1e9,
  m: 60e9,
  h: 3600e9,
}

/** The longest that a request can be delayed: a day. */
const LONGEST = 24 * 3600e9

function nanoseconds(time: unknown, what: string): number {
  const [, digits, unit] =
    typeof time === 'string' ? (/^(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)$/.exec(time) ?? []) : []
  const value = typeof time === 'number' ? time * 1e6 : Number(digits) * (UNITS[unit ?? ''] ?? 0)
  if (value >= 0 && value <= LONGEST) return Math.round(value)
  throw invalid(
    `${what} must be a time of at most a day, not ${nameOf(time)}`,
    "such as 5 (milliseconds), '80us' or '2s'",
  )
}

function sectors(value: unknown, what: string, least = 512): number {
  const bytes = parseSize(value as string, what)
  if (bytes >= least && bytes % 512 === 0) return bytes
  throw invalid(
    `${what} must be a multiple of 512${least > 0 ? ', and not 0' : ''}`,
    'disks write whole sectors',
  )
}

function whole(value: unknown, what: string, least: number): number {
  if (Number.isSafeInteger(value) && (value as number) >= least) return value as number
  throw wrongNumber(`${what} must be a whole number from ${least} on, not ${nameOf(value)}`, value)
}

function atLeastOne(value: number, what: string): number {
  if (value > 0) return value
  throw invalid(`${what} must not be 0`)
}

function probable(value: unknown): number | undefined {
  if (value === undefined || (typeof value === 'number' && value >= 0 && value <= 1)) return value
  throw wrongNumber(`probability must be a number from 0 to 1, not ${nameOf(value)}`, value)
}

function boolean(value: unknown, what: string): boolean | undefined {
  if (value === undefined || typeof value === 'boolean') return value
  throw wrongType(`${what} must be true or false, not ${nameOf(value)}`)
}
