import type { CrashStatesOptions } from '../../crash-options.js'
import type { CrashState } from '../../crash-state.js'
import type { ServedDevice } from '../../served-device.js'
import type { Failure } from './trials.js'

/** Tries states in the given order until one is not accepted, and returns that. */
export type Attempt = (
  states: AsyncIterable<CrashState> | Iterable<CrashState>,
) => Promise<Failure | undefined>

/**
 * Looks for the earliest power cut after which the command fails. A mark is the later bound if a state before it fails. So the list
 * of marks is halved, and each time the states before the mark in the middle are tried; then those between the two marks that are
 * left, in the order of time.
 *
 * @param failed - A state that fails.
 * @param options - Which states are wanted, each time.
 */
export async function earliest(
  disk: Pick<ServedDevice, 'crashStates'>,
  failed: Failure,
  options: CrashStatesOptions,
  attempt: Attempt,
): Promise<Failure> {
  const all = boundsIn(failed.state.marks, options.from)
  let found = failed
  /** Those before it. */
  let marks = all
  /** How many of them no state before has failed. */
  let passed = 0
  while (passed < marks.length) {
    const middle = (passed + marks.length) >> 1
    const trial = await attempt(disk.crashStates({ ...options, to: marks[middle] as string }))
    if (trial) {
      found = trial
      marks = marks.slice(0, boundsIn(trial.state.marks, options.from).length)
    } else {
      passed = middle + 1
    }
  }
  const [from, to] = [marks[passed - 1], all[marks.length]]
  const between = disk.crashStates({
    ...options,
    ...(from !== undefined && { from }),
    ...(to !== undefined && { to }),
  })
  const before: CrashState[] = []
  for await (const state of between) if (momentOf(state) < momentOf(found.state)) before.push(state)
  before.sort((a, b) => momentOf(a) - momentOf(b))
  return (await attempt(before)) ?? found
}

/** The moment of the power cut. */
export function momentOf({ id }: Pick<CrashState, 'id'>): number {
  return Number.parseInt(id, 10)
}

/** The marks after the first one that can bound a part of the log: a name that was set several times means its first. */
function boundsIn(marks: readonly string[], from: string | undefined): string[] {
  const all = [...new Set(marks)]
  return from === undefined ? all : all.slice(all.indexOf(from) + 1)
}
