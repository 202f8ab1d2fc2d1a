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

/** One of at most 100 states is not acceptable, because of at most three writes. */
export async function isFound(
  t: ExecutionContext,
  disk: ServedDevice,
  check: Check,
  options: CrashStatesOptions = {},
): Promise<void> {
  let tried = 0
  for await (const state of disk.crashStates({ budget: 100, ...options })) {
    tried++
    const error = await check(state).then(
      () => undefined,
      (error: unknown) => error,
    )
    if (error === undefined) continue
    const least = await state.shrink(check)
    const writes = new Set(least.lost.map(({ write }) => write)).size
    t.log(
      `state ${state.id}, number ${tried}: ${String(error)}; ${writes} writes of ${state.lost.length} parts`,
    )
    // None: what was promised had not been written at all.
    t.true(writes <= 3, JSON.stringify(least.lost))
    return
  }
  t.fail(`not found in ${tried} states`)
}
