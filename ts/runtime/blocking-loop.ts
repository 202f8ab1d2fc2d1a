import * as native from '#binding'
import { type JsDisk, type Report, serveSafely } from './js-disk.js'
import type { QueueMemory } from './queue-memory.js'

/** Called when `nextBatch` returned without work: V8 ends a terminated thread when it enters a function. */
function breathe(): void {}

/**
 * The fast path: this thread sleeps in the kernel and serves the requests that wake it, with one native call per turn.
 *
 * Returns {@link BATCH_ENDED}; or {@link BATCH_EVENTS}, when this thread has a message or the like, and it is to be called again
 * when all of these have been seen to; or the size of the batch in which some requests go on, because the backend is
 * asynchronous: then an event loop has to take over.
 */
export function serveBlocking(
  queue: native.Queue,
  memory: QueueMemory,
  disk: JsDisk,
  report: Report,
  beat: () => void,
): number {
  const { number } = queue
  let finished = 0
  for (;;) {
    const count = native.nextBatch(number, finished)
    beat()
    if (count === 0) breathe()
    else if (count < 0 || serveSafely(disk, memory, count, report) > 0) return count
    finished = count
  }
}
