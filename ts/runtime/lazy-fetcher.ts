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
}

/** Fetches the parts that a lazy disk asks for. */
export class LazyFetcher {
  readonly #fetch: Fetch
  readonly #timeout: number
  readonly #report: Report
  readonly #underWay = new Set<AbortController>()
  /** Receives the answers. It is set before the first fetch. */
  device: native.Device | undefined

  /** @param timeout - In milliseconds. */
  constructor(fetch: Fetch, timeout: number, report: Report) {
    this.#fetch = fetch
    this.#timeout = timeout
    this.#report = report
  }

  /** Answers one. It never rejects. */
  async answer({ id, offset, length }: native.Wanted): Promise<void> {
    const control = new AbortController()
    const fail = (error: unknown): void => {
      this.device?.failFetch(id, -errnoOf(error))
      this.#report(`fetch of ${length} bytes at ${offset} failed: ${inOneLine(error)}`)
    }
    const late = setTimeout(() => {
      const error = Object.assign(new Error(`not finished within ${this.#timeout} ms`), { code: 'ETIMEDOUT' })
      control.abort(error)
      fail(error)
    }, this.#timeout)
    late.unref()
    this.#underWay.add(control)
    try {
      const fetch = this.#fetch
      const data: unknown = await settled(fetch({ offset, length, signal: control.signal }))
      if (!(data instanceof Uint8Array))
        throw new TypeError(`fetch returned ${typeof data}, not a Uint8Array`)
      // Native code must not read memory that another thread may be writing.
      this.device?.supply(id, data.buffer instanceof SharedArrayBuffer ? new Uint8Array(data) : data)
    } catch (error) {
      // Later failures have no effect.
      if (!control.signal.aborted) fail(error)
    } finally {
      clearTimeout(late)
      this.#underWay.delete(control)
    }
  }

  /** Called when the disk is not served any more: aborts all fetches. */
  abort(): void {
    for (const control of this.#underWay) control.abort()
  }
}
