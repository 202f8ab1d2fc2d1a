import * as native from '#binding'
import type { CrashStateBackend } from './backends/crash-state.js'
import { overlay } from './backends/overlay.js'
import { checkOptions } from './check.js'
import { invalid, rethrow, UblkError, wrongType } from './errors.js'
import type { CreateOptions } from './options/device-options.js'
import { reportPage } from './report/page.js'
import { ServedDevice } from './served-device.js'
import { fewest } from './shrink.js'
import type { StateDisks } from './state-disks.js'
import { nameOf } from './user-values.js'

/** A part of a write that is not on a disk after a power cut as it was written. */
export interface LostWrite {
  /** The number of the write: 0 is the first that was recorded. */
  write: number
  /** Where the missing part begins on the disk, in bytes. */
  offset: number
  /** Its length, in bytes. */
  length: number
  /** What it was. */
  op: 'write' | 'discard' | 'write-zeroes'
  /** Whether a file system wrote structures of its own, such as its journal. */
  meta: boolean
  /**
   * What is there instead: what was there before (`missing`), garbage, what was there before while the part is elsewhere
   * (`moved`), or the part with a wrong bit (`flipped`).
   */
  how: 'missing' | 'garbage' | 'moved' | 'flipped'
  /** Where the part is if it was moved, in bytes; or which bit of it is wrong. */
  to?: number
}

/** The options of the disk of a state: those of {@link UblkDevice.create} but for the backend. */
export type CrashDiskOptions = Omit<CreateOptions, 'backend' | 'record'>

/** What {@link CrashState.report} says besides. */
export interface CrashReportOptions {
  /**
   * What the report is about, such as the error of the check.
   *
   * @defaultValue `'State 105.7'`, with its id
   */
  title?: string
  /**
   * What {@link CrashState.shrink} has found for this state: these losses are marked as those that matter. If they were written
   * later, the report is of that moment.
   */
  shrunk?: CrashState
}

/** More entries than these are not named in a report, so that it has about 300 KiB at most. */
const NAMED = 2000

/**
 * A state in which a power cut may leave a {@link powercut} disk. It can be used until that disk is deleted, and several of
 * them at a time.
 */
export class CrashState {
  readonly #states: native.CrashStates
  readonly #found: native.FoundState
  readonly #disks: StateDisks

  /**
   * Identifies it among the states of the same writes with the same options; see {@link ServedDevice.crashState}. It tells the
   * states of other writes or options apart from these, too.
   */
  readonly id: string
  /** The marks that were set before the power failed, in order. */
  readonly marks: readonly string[]
  /** What it lacks of all that was written until then. */
  readonly lost: readonly LostWrite[]

  /** @internal */
  constructor(states: native.CrashStates, found: native.FoundState, disks: StateDisks) {
    this.#states = states
    this.#found = found
    this.#disks = disks
    this.marks = found.marks
    this.lost = found.lost
    this.id = idOf(found, this.lost)
  }

  /**
   * Makes a disk with this content. What is written to it is thrown away with it, and does not change the state.
   *
   * Without options, its device may be that of a state whose disk was deleted before: it stays until the recorded disk is deleted.
   *
   * @throws UblkError as {@link UblkDevice.create}; of kind `closed` if the recorded disk was deleted.
   *
   * @example
   * ```ts
   * await using crashed = await state.disk()
   * ```
   */
  async disk(options: CrashDiskOptions = {}): Promise<ServedDevice> {
    if (Object.keys(options).length === 0) return await ServedDevice.ofState(this.#found, this.#disks)
    const number = this.#found.view().keep()
    try {
      const state: CrashStateBackend = { kind: 'crash-state', number }
      return await ServedDevice.create({ ...options, record: false, backend: overlay(state) })
    } finally {
      native.forgetCrashState(number)
    }
  }

  /**
   * Finds the fewest losses with which a check still fails: those that matter. Whole writes are tried first, then their parts.
   *
   * If the check fails even when nothing is lost, what matters had not been written yet. Then it is the write without which the
   * check fails at a later moment, before the next mark: a power cut at that moment may lose it, and leaves the same content.
   *
   * @param check - Gets a state, and rejects, or returns false, if that is not acceptable.
   * @returns The state that lacks only those. Its `lost` is empty if the check accepts nothing until the next mark: the program
   * has not written what it promised, or the check is wrong. It is this state if the check accepts everything less.
   *
   * @example
   * ```ts
   * const least = await state.shrink(check)
   * console.log(least.lost)
   * ```
   */
  async shrink(check: (state: CrashState) => unknown): Promise<CrashState> {
    let least: CrashState = this
    const fails = async (lost: readonly LostWrite[]): Promise<boolean> => {
      const state = await this.#without(this.#found.cut, lost)
      if (!state || (await accepts(check, state))) return false
      least = state
      return true
    }
    if (await fails([])) return (await this.#unwritten(check)) ?? least
    const writes = [...new Set(this.lost.map(({ write }) => write))]
    const of = (some: readonly number[]): LostWrite[] => {
      const these = new Set(some)
      return this.lost.filter(({ write }) => these.has(write))
    }
    const needed = await fewest(writes, async some => await fails(of(some)))
    await fewest(of(needed), fails)
    return least
  }

  /**
   * Describes the state for people, as an HTML page that loads nothing else: what was written, flushed and marked until the power
   * failed, what of it was durable, and what is lost; where that is on the disk; and which losses matter, if `shrunk` says so. It
   * does not read the disk, and can be called after that was deleted.
   *
   * Of a long recording 2000 entries are listed: what is lost, what happened around that, the last flushes and marks, what was not
   * durable, and then the newest. The others are counted.
   *
   * @returns The text of the page, about 300 KiB at most.
   * @throws UblkError of kind `invalid` if an option is wrong.
   *
   * @example
   * ```ts
   * const shrunk = await state.shrink(check)
   * await writeFile('power-cut.html', state.report({ title: 'a rename is not durable', shrunk }))
   * ```
   */
  report(options: CrashReportOptions = {}): string {
    checkOptions<CrashReportOptions>(options, 'report()', { title: true, shrunk: true })
    const { title = `State ${this.id}`, shrunk } = options
    if (typeof title !== 'string' || title.trim() === '') {
      throw wrongType(`title must be text, not ${nameOf(title)}`, 'such as the error of the check')
    }
    if (shrunk !== undefined && !(shrunk instanceof CrashState)) {
      throw invalid('shrunk is no state', 'take what shrink() has found for this state')
    }
    // What matters was written later.
    if (shrunk && shrunk.#found.cut !== this.#found.cut) return shrunk.report({ title, shrunk })
    const first = (shrunk ?? this).lost.map(({ write }) => write)
    const account = this.#found.account([...new Set(first)], NAMED)
    const { id, marks, lost } = this
    return reportPage({ title, id, marks, lost, account, ...(shrunk && { shrunk }) })
  }

  async #without(cut: number, lost: readonly LostWrite[]): Promise<CrashState | null> {
    const found = await this.#states.without(cut, [...lost]).catch(rethrow)
    return found && new CrashState(this.#states, found, this.#disks)
  }

  /** The state that lacks only the write with which a check begins to accept the newest content, until the next mark. */
  async #unwritten(check: (state: CrashState) => unknown): Promise<CrashState | undefined> {
    const later = await this.#states.later(this.#found.cut).catch(rethrow)
    const isAccepted = async (cut: number): Promise<boolean> => {
      const newest = await this.#without(cut, [])
      return newest !== null && (await accepts(check, newest))
    }
    let next = later.at(-1)
    if (!next || !(await isAccepted(next.cut))) return undefined
    // It accepts the content from some write on.
    for (let [from, to] = [0, later.length - 1]; from < to; ) {
      const middle = Math.floor((from + to) / 2)
      const { cut } = later[middle] as native.LaterWrite
      if (await isAccepted(cut)) [next, to] = [later[middle], middle]
      else from = middle + 1
    }
    const { cut, write } = next as native.LaterWrite
    const state = await this.#without(cut, [write as LostWrite])
    return state && !(await accepts(check, state)) ? state : undefined
  }
}

async function accepts(check: (state: CrashState) => unknown, state: CrashState): Promise<boolean> {
  try {
    return (await check(state)) !== false
  } catch {
    return false
  }
}

const SIGNS: Readonly<Record<LostWrite['how'], string>> = {
  missing: '',
  garbage: '?',
  moved: '>',
  flipped: '^',
}

/**
 * `105.7~1a2b3c4d`: the state number 7 at moment 105; `105-12@4096+512~1a2b3c4d`: the one at that moment that lacks only this of
 * write 12. What is behind the `~` says of which record, model and seed.
 */
function idOf({ cut, number, record }: native.FoundState, lost: readonly LostWrite[]): string {
  const parts = lost.map(({ write, offset, length, how, to = '' }) => {
    return `${write}@${offset}+${length}${SIGNS[how]}${to}`
  })
  const which = typeof number === 'number' ? `${cut}.${number}` : [cut, ...parts].join('-')
  return `${which}~${record.toString(16).padStart(8, '0')}`
}

/**
 * Finds a state by its id. One without the part behind the `~` is of whatever record this is.
 *
 * @throws UblkError of kind `not-found` if there is none, or it is of another record.
 */
export async function stateOf(
  id: string,
  states: native.CrashStates,
  disks: StateDisks,
  device: number,
): Promise<CrashState> {
  const found = await look(id, states)
  const state = found ? new CrashState(states, found, disks) : null
  const [which, wanted] = [state?.id, id].map(each => each?.replace(/~.*/, ''))
  if (state && (state.id === id || (which === id && id === wanted))) return state
  if (state && which === wanted) {
    throw new UblkError('not-found', `the state ${id} is of other writes, or another seed or model`, {
      device,
      hint: 'use the recorded disk, or its log, with the seed and the model with which the state was found',
    })
  }
  throw new UblkError('not-found', `there is no state ${nameOf(id)}`, { device })
}

async function look(id: string, states: native.CrashStates): Promise<native.FoundState | null> {
  const [, cut, number, rest = ''] =
    /^(\d+)(?:\.(\d+)|((?:-\d+@\d+\+\d+(?:\?|[>^]\d+)?)*))(?:~[0-9a-f]{8})?$/.exec(id) ?? []
  // Of larger numbers there is none, and they would not be exact.
  const numbers = id.replace(/~.*/, '').match(/\d+/g)
  if (cut === undefined || !numbers?.every(each => Number.isSafeInteger(Number(each)))) return null
  if (number !== undefined) return await states.replay(Number(cut), Number(number)).catch(rethrow)
  const lost = [...rest.matchAll(/(\d+)@(\d+)\+(\d+)([?>^]?)(\d*)/g)].map(parts => partOf(parts))
  return await states.without(Number(cut), lost).catch(rethrow)
}

function partOf([, write, offset, length, sign, to]: RegExpMatchArray): LostWrite {
  const how = (Object.keys(SIGNS) as LostWrite['how'][]).find(how => SIGNS[how] === sign) ?? 'missing'
  const place = to ? { to: Number(to) } : {}
  return {
    write: Number(write),
    offset: Number(offset),
    length: Number(length),
    op: 'write',
    meta: false,
    how,
    ...place,
  }
}
