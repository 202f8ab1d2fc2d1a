import type { CrashState } from '../../crash-state.js'
import type { Check, Verdict } from './check.js'

/** A state that was tried. Of one that was accepted there is not more than the last mark: there may be thousands. */
export interface Trial {
  readonly state: Pick<CrashState, 'id' | 'marks' | 'lost'>
  readonly verdict: Verdict
}

/** One that was not accepted. */
export interface Failure extends Trial {
  readonly state: CrashState
}

/** Whether it was not accepted. */
export function isFailure(trial: Trial): trial is Failure {
  return !trial.verdict.accepted
}

/** How states are tried. */
export interface Trying {
  /** How many commands run at the same time. */
  readonly jobs: number
  /** Whether to go on after one was not accepted. */
  readonly keepGoing: boolean
  /** Called after each. */
  tried?(verdict: Verdict): void
}

/**
 * Tries states, and returns those that were tried in their order: all, or those up to the first that was not accepted. Whatever the
 * number of jobs is, these are the same.
 *
 * @throws what the check throws, once all that runs has ended.
 */
export async function tryStates(
  states: AsyncIterable<CrashState> | Iterable<CrashState>,
  check: Check,
  { jobs, keepGoing, tried }: Trying,
): Promise<Trial[]> {
  const all: Trial[] = []
  const numbered = numberedOf(states)
  let ends = false
  const work = async (): Promise<void> => {
    while (!ends) {
      const next = await numbered.next()
      if (next.done) return
      const [at, state] = next.value
      const verdict = await check.of(state)
      all[at] = verdict.accepted ? acceptedOf(state, verdict) : { state, verdict }
      if (!verdict.accepted && !keepGoing) ends = true
      tried?.(verdict)
    }
  }
  const guarded = async (): Promise<void> => {
    try {
      await work()
    } catch (error) {
      ends = true
      throw error
    }
  }
  const results = await Promise.allSettled(Array.from({ length: jobs }, guarded))
  await numbered.return(undefined)
  const failed = results.find(result => result.status === 'rejected')
  if (failed) throw failed.reason
  const first = keepGoing ? -1 : all.findIndex(isFailure)
  return first === -1 ? all : all.slice(0, first + 1)
}

function acceptedOf({ id, marks }: CrashState, verdict: Verdict): Trial {
  return { state: { id, marks: marks.slice(-1), lost: [] }, verdict: { ...verdict, output: '' } }
}

async function* numberedOf(
  states: AsyncIterable<CrashState> | Iterable<CrashState>,
): AsyncGenerator<[number, CrashState], undefined, undefined> {
  let at = 0
  for await (const state of states) yield [at++, state]
}
