import { clearTimeout, setTimeout } from 'node:timers'
import type * as native from '#binding'
import { errnoOf, inOneLine, settled } from '../user-values.js'
import type { Report } from './js-disk.js'

/** A part of a disk to fetch. */
export interface FetchRange {
  /** Its offset in bytes; a multiple of the chunk size. */
  readonly offset: number
  /** Its length in bytes: a multiple of the chunk size, or less at the end of the disk. */
  readonly length: number
  /** Aborted when the data is not needed any more. */
  readonly signal: AbortSignal
}

/**
 * Fetches a part of a disk: all of `range.length` bytes. If it throws, the requests that wait for this part fail with that
 * error, as with the methods of other disks; the next request fetches the part again.
 */
export type Fetch = (range: FetchRange) => Uint8Array | Promise<Uint8Array>

/** How a lazy disk gets its data. */
export interface Filling {
  readonly fetch: Fetch
  /** After how many milliseconds a fetch fails. */
  readonly timeout: number
  /** How many fetches may be under way at a time, the others wait for their turn; undefined for any number. */
  readonly atOnce: number | undefined
}

/** A fetch that waits for its turn. */
interface Waiting extends native.Wanted {
  readonly since: number
  timer: NodeJS.Timeout | undefined
}

/** How many fetches that requests wait for may pass the oldest one of the background. */
const MOST_PASSES = 3

/**
 * Fetches the parts that a lazy disk asks for. A fetch that takes longer than the timeout fails. Where only some may be
 * under way, the time of a fetch begins with its turn. Until then it fails only if no other fetch has succeeded for as
 * long as the timeout says: a slow source is no error, and a dead one keeps nobody waiting for longer than twice that.
 */
export class LazyFetcher {
  readonly #filling: Filling
  readonly #report: Report
  readonly #underWay = new Set<AbortController>()
  /** What requests wait for, the oldest first. */
  readonly #wanted = new Set<Waiting>()
  /** What is fetched in advance, the oldest first. */
  readonly #background = new Set<Waiting>()
  /** How many have passed the oldest one of the background. */
  #passes = 0
  #lastSuccess = Number.NEGATIVE_INFINITY
  /** Receives the answers. It is set before the first fetch. */
  device: native.Device | undefined

  constructor(filling: Filling, report: Report) {
    this.#filling = filling
    this.#report = report
  }

  /** Answers one, now or when it is its turn. */
  answer(wanted: native.Wanted): void {
    if (this.#hasRoom()) return void this.#fetch(wanted)
    const waiting: Waiting = { ...wanted, since: performance.now(), timer: undefined }
    const queue = wanted.background ? this.#background : this.#wanted
    queue.add(waiting)
    this.#watch(waiting, queue)
  }

  /** Called when the disk is not served any more: aborts all fetches. */
  abort(): void {
    for (const queue of [this.#wanted, this.#background]) {
      for (const { timer } of queue) clearTimeout(timer)
      queue.clear()
    }
    for (const control of this.#underWay) control.abort()
  }

  #hasRoom(): boolean {
    const { atOnce } = this.#filling
    return atOnce === undefined || this.#underWay.size < atOnce
  }

  /** Fails one that waits when no other has succeeded for too long. */
  #watch(waiting: Waiting, queue: Set<Waiting>): void {
    const { timeout } = this.#filling
    const left = Math.max(waiting.since, this.#lastSuccess) + timeout - performance.now()
    if (left > 0) {
      waiting.timer = setTimeout(() => this.#watch(waiting, queue), Math.ceil(left)).unref()
      return
    }
    queue.delete(waiting)
    this.#fail(waiting, tooLate(`not begun, and no other fetch succeeded, within ${timeout} ms`))
  }

  /** Begins those whose turn it is. */
  #goOn(): void {
    while (this.#hasRoom()) {
      const next = this.#next()
      if (!next) return
      clearTimeout(next.timer)
      void this.#fetch(next)
    }
  }

  /** Requests first, but the background is not kept waiting for ever. */
  #next(): Waiting | undefined {
    const [wanted] = this.#wanted
    const [background] = this.#background
    if (wanted && !(background && this.#passes >= MOST_PASSES)) {
      this.#passes = background ? this.#passes + 1 : 0
      this.#wanted.delete(wanted)
      return wanted
    }
    this.#passes = 0
    if (background) this.#background.delete(background)
    return background
  }

  /** It never rejects. */
  async #fetch(wanted: native.Wanted): Promise<void> {
    const { fetch, timeout } = this.#filling
    const { id, offset, length } = wanted
    const control = new AbortController()
    const late = setTimeout(() => {
      const error = tooLate(`not finished within ${timeout} ms`)
      control.abort(error)
      this.#fail(wanted, error)
      this.#end(control)
    }, timeout)
    late.unref()
    this.#underWay.add(control)
    try {
      const data: unknown = await settled(fetch({ offset, length, signal: control.signal }))
      if (!(data instanceof Uint8Array))
        throw new TypeError(`fetch returned ${typeof data}, not a Uint8Array`)
      // Native code must not read memory that another thread may be writing.
      this.device?.supply(id, data.buffer instanceof SharedArrayBuffer ? new Uint8Array(data) : data)
      this.#lastSuccess = performance.now()
    } catch (error) {
      // Later failures have no effect.
      if (!control.signal.aborted) this.#fail(wanted, error)
    } finally {
      clearTimeout(late)
      this.#end(control)
    }
  }

  #end(control: AbortController): void {
    if (this.#underWay.delete(control)) this.#goOn()
  }

  #fail({ id, offset, length }: native.Wanted, error: unknown): void {
    this.device?.failFetch(id, -errnoOf(error))
    this.#report(`fetch of ${length} bytes at ${offset} failed: ${inOneLine(error)}`)
  }
}

function tooLate(message: string): Error {
  return Object.assign(new Error(message), { code: 'ETIMEDOUT' })
}
