import { env } from 'node:process'
import type { ExecutionContext } from 'ava'
import type { CrashState, CrashStatesOptions, ServedDevice } from 'ublk-ts'

/** How many states a test tries that expects no failure: few by default, thousands if there is time. */
export const STATES = Number(env['UBLK_TS_CRASH_STATES'] ?? 8)

/** A check of a state, which throws an error if that is not acceptable. */
export type Check = (state: CrashState) => Promise<void>

/** All states that are tried are acceptable. */
export async function survives(
  t: ExecutionContext,
  disk: ServedDevice,
  check: Check,
  options: CrashStatesOptions = {},
): Promise<void> {
  let tried = 0
  for await (const state of disk.crashStates({ budget: STATES, ...options })) {
    try {
      await check(state)
    } catch (error) {
      t.fail(`state ${state.id}, number ${tried}: ${String(error)}; lost: ${JSON.stringify(state.lost)}`)
    }
    tried++
  }
  t.log(`${tried} states`)
  t.true(tried >= 8, `only ${tried} states were tried`)
}

/** A state that a check does not accept, because of what it lacks. */
export interface Failure {
  readonly state: CrashState
  /** The same with the fewest losses; none if what was promised had not been written. */
  readonly least: CrashState
  /** The error of the check. */
  readonly error: unknown
  /** How many states were tried. */
  readonly tried: number
}

/**
 * The first state that is not acceptable while the newest content at the same moment is. If there is none: the first that is not
 * because what was promised had not been written at all, provided that the check accepts other states.
 */
export async function firstFailure(
  disk: ServedDevice,
  check: Check,
  options: CrashStatesOptions,
): Promise<Failure | undefined> {
  let tried = 0
  let accepted = false
  let unwritten: Failure | undefined
  const never = new Set<string>()
  for await (const state of disk.crashStates(options)) {
    tried++
    const [moment = ''] = state.id.split('.')
    if (never.has(moment)) continue
    const error = await errorOf(check, state)
    accepted ||= error === undefined
    if (error === undefined) continue
    const least = await state.shrink(check)
    unwritten ??= { state, least, error, tried }
    if (least.lost.length > 0) return { state, least, error, tried }
    never.add(moment)
  }
  return accepted ? unwritten : undefined
}

async function errorOf(check: Check, state: CrashState): Promise<unknown> {
  return await check(state).then(
    () => undefined,
    (error: unknown) => error,
  )
}

/** One of at most 100 states is not acceptable, because of at most three writes. */
export async function isFound(
  t: ExecutionContext,
  disk: ServedDevice,
  check: Check,
  options: CrashStatesOptions = {},
): Promise<void> {
  const found = await firstFailure(disk, check, { budget: 100, ...options })
  if (!found) return t.fail('no state lacks what was promised, or all do')
  const { state, least, error, tried } = found
  const writes = new Set(least.lost.map(({ write }) => write)).size
  t.log(
    `state ${state.id}, number ${tried}: ${String(error)}; ${writes} writes of ${state.lost.length} parts`,
  )
  t.true(writes <= 3, JSON.stringify(least.lost))
}
