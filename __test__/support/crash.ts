import { env } from 'node:process'
import type { ExecutionContext } from 'ava'
import type { CrashState, CrashStatesOptions, ServedDevice } from 'ublk-ts'

/** How many states a test tries that expects no failure: few by default, thousands if there is time. */
export const STATES = Number(env['UBLK_TS_CRASH_STATES'] ?? 8)

/** How often a program promises something: more often if many states are tried, or there are not so many. */
export const ROUNDS = STATES < 1000 ? 2 : 20

/** How much more data each time: so much more is in doubt. */
export const MORE = STATES < 1000 ? 1 : 8

/** So many states are checked at a time, if there are many: most of the time a check waits for the kernel. */
export const JOBS = STATES < 1000 ? 1 : 4

/** Determines which states are tried. */
const SEED = Number(env['UBLK_TS_CRASH_SEED'] ?? 1)

/** A check of a state, which throws an error if that is not acceptable. `job`: other checks at the same time have other numbers. */
export type Check = (state: CrashState, job?: number) => Promise<void>

/** All states that are tried are acceptable. */
export async function survives(
  t: ExecutionContext,
  disk: ServedDevice,
  check: Check,
  options: CrashStatesOptions = {},
  jobs = 1,
): Promise<void> {
  const states = disk.crashStates({ budget: STATES, seed: SEED, ...options })
  const start = performance.now()
  let tried = 0
  const work = async (job: number): Promise<void> => {
    for (;;) {
      const { value: state, done } = await states.next()
      if (done) return
      const number = tried++
      try {
        await check(state, job)
      } catch (error) {
        t.fail(`state ${state.id}, number ${number}: ${String(error)}; lost: ${JSON.stringify(state.lost)}`)
      }
    }
  }
  await Promise.all(Array.from({ length: jobs }, (_, job) => work(job)))
  t.log(`${tried} states, ${Math.round((performance.now() - start) / tried)} ms each`)
  t.true(tried >= 8, `only ${tried} states were tried`)
}

/** A state that a check does not accept, because of what it lacks. */
export interface Failure {
  readonly state: CrashState
  /** The same with the fewest losses: at least one. */
  readonly least: CrashState
  /** The error of the check. */
  readonly error: unknown
  /** How many states were tried. */
  readonly tried: number
}

/**
 * The first state that is not acceptable because of writes that are lost. Where there are none, the check accepts nothing until the
 * next mark, which shows nothing of the states; no other state of that moment is tried.
 */
export async function firstFailure(
  disk: ServedDevice,
  check: Check,
  options: CrashStatesOptions,
): Promise<Failure | undefined> {
  let tried = 0
  const never = new Set<string>()
  for await (const state of disk.crashStates(options)) {
    tried++
    const [moment = ''] = state.id.split('.')
    if (never.has(moment)) continue
    const error = await errorOf(check, state)
    if (error === undefined) continue
    const least = await state.shrink(check)
    if (least.lost.length > 0) return { state, least, error, tried }
    never.add(moment)
  }
  return undefined
}

async function errorOf(check: Check, state: CrashState): Promise<unknown> {
  return await check(state).then(
    () => undefined,
    (error: unknown) => error,
  )
}

/** One of at most 500 states is not acceptable, because at most three writes are lost. */
export async function isFound(
  t: ExecutionContext,
  disk: ServedDevice,
  check: Check,
  options: CrashStatesOptions = {},
): Promise<void> {
  const found = await firstFailure(disk, check, { budget: 500, ...options })
  if (!found) return t.fail('no state lacks what was promised because of a loss')
  const { state, least, error, tried } = found
  const writes = new Set(least.lost.map(({ write }) => write)).size
  t.log(
    `state ${state.id}, number ${tried}: ${String(error)}; ${writes} writes of ${state.lost.length} parts`,
  )
  t.true(writes >= 1 && writes <= 3, JSON.stringify(least.lost))
}
