import type * as native from '#binding'
import type { JsDisk } from './disk.js'

/** Called when `next` returned for nothing: V8 ends a terminated thread when a function is entered. */
function breathe(): void {}

/**
 * The fast path: this thread sleeps in the kernel and serves what wakes it, one native call a turn.
 * Returns -1 when the queue has ended; or the size of the batch in which some requests go on, because the
 * backend is asynchronous: then an event loop has to take over.
 */
export function serveBlocking(queue: native.Queue, disk: JsDisk, beat: () => void): number {
  let finished = 0
  for (;;) {
    const count = queue.next(finished)
    if (count < 0) return -1
    beat()
    if (count === 0) breathe()
    else if (disk.serve(count) > 0) return count
    finished = count
  }
}
