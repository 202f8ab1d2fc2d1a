import { resolve } from 'node:path'
import { checkSeed } from './backends/powercut.js'
import { checkOptions, checkSignal } from './check.js'
import { invalid, wrongNumber, wrongType } from './errors.js'
import { pathOf } from './path.js'
import { nameOf } from './user-values.js'

/**
 * What a disk does with writes that are not durable when the power fails. `prefix`: it has the first of them, up to any;
 * `writes`: any of them, whole; `torn`: any units of them; `garbage`: the same, and a unit that was being written then may hold
 * anything.
 *
 * The others are illegal: no disk may do this. They show that a check can fail, or that a program finds damage. With
 * `lying-flush` neither a flush nor FUA makes anything durable, with `ignored-fua` only a flush does. With `misdirected` all
 * writes are there, but one of them elsewhere; with `bit-rot` one bit of one of them is wrong.
 */
export type CrashModel =
  | 'prefix'
  | 'writes'
  | 'torn'
  | 'garbage'
  | 'lying-flush'
  | 'ignored-fua'
  | 'misdirected'
  | 'bit-rot'

/** Their names. */
export const MODELS: Readonly<Record<CrashModel, true>> = {
  prefix: true,
  writes: true,
  torn: true,
  garbage: true,
  'lying-flush': true,
  'ignored-fua': true,
  misdirected: true,
  'bit-rot': true,
}

/** Which states after a power cut are wanted. */
export interface CrashStatesOptions {
  /**
   * At most this number of states. If more are possible, it is shared out among moments: first those at which most is possible,
   * just before a flush is complete or a mark is set. Of each, the states that find most faults come first.
   *
   * @defaultValue 1000
   */
  budget?: number
  /**
   * What the disk does with writes that are not durable.
   *
   * @defaultValue `'torn'`
   */
  model?: CrashModel
  /**
   * The mark after which the power fails.
   *
   * @defaultValue the beginning
   */
  from?: string
  /**
   * The mark before which it fails.
   *
   * @defaultValue the present
   */
  to?: string
  /**
   * Determines what is drawn.
   *
   * @defaultValue that of the disk
   */
  seed?: number
}

/** How {@link ServedDevice.cut} chooses what is left. */
export interface CutOptions {
  /**
   * What the disk does with writes that are not durable.
   *
   * @defaultValue `'torn'`
   */
  model?: CrashModel
  /**
   * Determines what is left.
   *
   * @defaultValue that of the disk
   */
  seed?: number
}

/** The event at which the power fails: the `flush`th flush or the `write`th write from now on, or a mark. One of them. */
export interface CutEvent {
  /** The completion of this flush: 1 is the next one. */
  flush?: number
  /** The completion of this write, discard or write-zeroes: 1 is the next one. */
  write?: number
  /** The next mark with this name. */
  mark?: string
}

/** How {@link UblkDevice.exportLog} is ended. */
export interface ExportLogOptions {
  /** Ends it. No file is left. */
  signal?: AbortSignal
}

/** A log that was written by {@link UblkDevice.exportLog}. */
export interface ExportedLog {
  /** How many entries it has: writes, discards, flushes and marks. */
  readonly entries: number
  /** The length of the file in bytes. It takes up less where zeroes were written without data. */
  readonly bytes: number
}

/** How many states are tried by default. */
export const BUDGET = 1000

/** As the native part takes it. */
interface CheckedStates {
  budget: number
  model: CrashModel
  from: string | undefined
  to: string | undefined
  seed: number
}

function checkModel(model: unknown): CrashModel {
  if (typeof model === 'string' && Object.hasOwn(MODELS, model)) return model as CrashModel
  throw invalid(`there is no model ${nameOf(model)}`, `there are ${Object.keys(MODELS).join(', ')}`)
}

/**
 * Checks the name of a mark.
 *
 * @throws UblkError of kind `invalid`.
 */
export function checkMark(name: unknown): asserts name is string {
  if (typeof name !== 'string' || name === '') {
    throw wrongType(`a mark must be text, not ${nameOf(name)}`, "such as 'paid 17'")
  }
}

/**
 * Checks which states are wanted, and fills in what is not said.
 *
 * @throws UblkError of kind `invalid`.
 */
export function checkStates(options: CrashStatesOptions, ofDisk: number): CheckedStates {
  checkOptions<CrashStatesOptions>(options, 'crashStates()', {
    budget: true,
    model: true,
    from: true,
    to: true,
    seed: true,
  })
  const { budget = BUDGET, model = 'torn', from, to, seed = ofDisk } = options
  if (!Number.isSafeInteger(budget) || budget < 1) {
    throw wrongNumber(`budget must be a whole number of at least 1, not ${nameOf(budget)}`, budget)
  }
  if (from !== undefined) checkMark(from)
  if (to !== undefined) checkMark(to)
  return { budget, model: checkModel(model), from, to, seed: checkSeed(seed) }
}

/**
 * Checks how the power is cut.
 *
 * @throws UblkError of kind `invalid`.
 */
export function checkCut(options: CutOptions, ofDisk: number): { model: CrashModel; seed: number } {
  checkOptions<CutOptions>(options, 'cut()', { model: true, seed: true })
  const { model = 'torn', seed = ofDisk } = options
  return { model: checkModel(model), seed: checkSeed(seed) }
}

/**
 * Checks at what the power is cut.
 *
 * @throws UblkError of kind `invalid`.
 */
export function checkEvent(event: CutEvent): asserts event is CutEvent {
  checkOptions<CutEvent>(event, 'cutAt()', { flush: true, write: true, mark: true })
  const { flush, write, mark } = event
  if ([flush, write, mark].filter(given => given !== undefined).length !== 1) {
    throw invalid('cutAt() takes a flush, a write or a mark, or a predicate', 'such as { flush: 1 }')
  }
  if (mark !== undefined) return checkMark(mark)
  const count = flush ?? write
  if (!Number.isSafeInteger(count) || (count as number) < 1) {
    throw wrongNumber(`which one it is must be a whole number of at least 1, not ${nameOf(count)}`, count)
  }
}

/**
 * Checks where a log is to be written. Returns the absolute path.
 *
 * @throws UblkError of kind `invalid`.
 */
export function checkExport(path: unknown, options: ExportLogOptions): string {
  checkOptions<ExportLogOptions>(options, 'exportLog()', { signal: true })
  checkSignal(options.signal)
  return resolve(pathOf(path, 'the path of the log'))
}
