import { setTimeout as sleep } from 'node:timers/promises'

/** Yields at each interval (in seconds), `count` times, until the signal aborts. Does not drift. */
export async function* ticks(seconds: number, count: number, signal: AbortSignal): AsyncGenerator<void> {
  const start = performance.now()
  for (let tick = 1; tick <= count; tick++) {
    const due = start + tick * seconds * 1000
    await sleep(Math.max(due - performance.now(), 0), undefined, { signal }).catch(() => {})
    if (signal.aborted) return
    yield
  }
}
