import { INTERRUPTED } from '../interrupted.js'

/** npm passes on the Ctrl-C that its child has already had from the terminal: these are one. */
const SAME_PRESS_MS = 300

/** Signals that fire at the first and at the second request to end. */
export interface Interrupts {
  readonly first: AbortSignal
  readonly second: AbortSignal
}

/**
 * Listens to what asks this process to end: Ctrl-C and SIGTERM; and SIGHUP, unless it is to survive its terminal, or does
 * something else then.
 */
export function interrupts({ hangup }: { hangup: 'end' | 'ignore' | (() => void) }): Interrupts {
  const first = new AbortController()
  const second = new AbortController()
  let since = Number.POSITIVE_INFINITY
  const interrupt = (): void => {
    if (!first.signal.aborted) {
      first.abort(INTERRUPTED)
      // What came during that is seen before this: on a busy machine it may take longer than the time of one press.
      setImmediate(() => {
        since = performance.now()
      })
    } else if (performance.now() - since > SAME_PRESS_MS) second.abort(INTERRUPTED)
  }
  process.on('SIGINT', interrupt).on('SIGTERM', interrupt)
  const other = hangup === 'ignore' ? () => {} : hangup
  process.on('SIGHUP', other === 'end' ? interrupt : other)
  return { first: first.signal, second: second.signal }
}
