import { constants, type PerformanceEntry, PerformanceObserver } from 'node:perf_hooks'
import { setImmediate as turn } from 'node:timers/promises'
import { getHeapStatistics, setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { BroadcastChannel } from 'node:worker_threads'
import { defineBackend } from 'ublk-ts'

/** Where the backend tells its news. */
export const CHANNEL = 'weighed'

/** What it tells at each flush, which stands for nothing else. */
export interface Weight {
  /** Bytes on the heap of its thread after a full collection. */
  used: number
  /** Bytes that the heap's objects hold elsewhere. */
  external: number
  /** Bytes that a request took from the heap so far, garbage included. */
  perRequest: number
}

/** What it tells when it is closed: each time that its thread stood still for a collection, in milliseconds. */
export type Pauses = number[]

/** How many requests there are between two looks at the heap, which itself takes some 400 bytes of it. */
const INTERVAL = 1000

/** A disk in memory that watches its thread's heap. */
export default defineBackend(({ size }: { size: number }) => {
  const bytes = new Uint8Array(size)
  const channel = new BroadcastChannel(CHANNEL)
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  const pauses = watchPauses()
  const growth = new Growth()

  return {
    size,
    read(request, into) {
      growth.count()
      into.set(bytes.subarray(request.offset, request.offset + request.length))
    },
    write(request, from) {
      growth.count()
      bytes.set(from, request.offset)
    },
    flush() {
      collect()
      const { used_heap_size: used, external_memory: external } = getHeapStatistics()
      channel.postMessage({ used, external, perRequest: growth.perRequest } satisfies Weight)
    },
    async close() {
      channel.postMessage(await pauses())
      channel.close()
    },
  }
})

/** Notes how much the heap grows with each request. */
class Growth {
  #requests = 0
  #last = getHeapStatistics().used_heap_size
  #bytes = 0
  #intervals = 0

  count(): void {
    this.#requests++
    if (this.#requests % INTERVAL !== 0) return
    const used = getHeapStatistics().used_heap_size
    if (used >= this.#last) {
      // else there was a collection meanwhile
      this.#bytes += used - this.#last
      this.#intervals++
    }
    this.#last = used
  }

  get perRequest(): number {
    return this.#bytes / this.#intervals / INTERVAL
  }
}

/** Notes collections from now on; what it returns gives their times. */
function watchPauses(): () => Promise<Pauses> {
  const entries: PerformanceEntry[] = []
  const observer = new PerformanceObserver(list => entries.push(...list.getEntries()))
  observer.observe({ entryTypes: ['gc'] })
  return async () => {
    // Node keeps them back while the thread serves, until its event loop has turned.
    await turn()
    entries.push(...observer.takeRecords())
    observer.disconnect()
    return entries.filter(entry => !wasForced(entry)).map(({ duration }) => duration)
  }
}

function wasForced(entry: PerformanceEntry): boolean {
  const { flags = 0 } = (entry as { detail?: { flags?: number } }).detail ?? {}
  return (flags & constants.NODE_PERFORMANCE_GC_FLAGS_FORCED) !== 0
}
