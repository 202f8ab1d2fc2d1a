import { Cancel } from '#binding'
import { wrap } from './errors.js'
import { INTERRUPTED } from './interrupted.js'

/**
 * Runs a native action that `signal` can abort; it then rejects with the signal's reason, as `fetch`
 * does. Other failures reject with a UblkError.
 */
export async function abortable<T>(
  signal: AbortSignal | undefined,
  action: (cancel: Cancel) => Promise<T>,
): Promise<T> {
  signal?.throwIfAborted()
  const cancel = new Cancel()
  const abort = (): void => cancel.cancel()
  signal?.addEventListener('abort', abort, { once: true })
  try {
    return await action(cancel)
  } catch (error) {
    const wrapped = wrap(error)
    const aborted = signal?.aborted && (wrapped.kind === 'cancelled' || Object.is(error, signal.reason))
    throw aborted && signal.reason !== INTERRUPTED ? signal.reason : wrapped
  } finally {
    signal?.removeEventListener('abort', abort)
  }
}
