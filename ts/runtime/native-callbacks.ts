import type * as native from '#binding'
import type { Report } from './js-disk.js'
import { type Filling, LazyFetcher } from './lazy-fetcher.js'
import { type Observe, tellChanges } from './observer.js'

/** The functions that a device with a native backend calls. */
export class NativeCallbacks {
  readonly onFetch: ((wanted: native.Wanted) => void) | undefined
  readonly onChange: (() => void) | undefined
  readonly #fetcher: LazyFetcher | undefined
  #device: native.Device | undefined

  /**
   * @param filling - What fills the disk, if it is a lazy one.
   * @param observe - Takes the changes of the disk.
   */
  constructor(filling: Filling | undefined, observe: Observe | undefined, report: Report) {
    if (filling) {
      const fetcher = new LazyFetcher(filling, message => report(`lazy: ${message}`))
      this.#fetcher = fetcher
      this.onFetch = wanted => fetcher.answer(wanted)
    }
    if (observe) {
      this.onChange = () => {
        if (this.#device) tellChanges(this.#device, observe, report)
      }
    }
  }

  /** The device is there. */
  attach(device: native.Device): void {
    this.#device = device
    if (this.#fetcher) this.#fetcher.device = device
  }

  /** The device is gone. It holds these functions, and must not be held by them. */
  detach(): void {
    this.#device = undefined
    if (this.#fetcher) this.#fetcher.device = undefined
  }

  /** Called when the disk is not served any more. */
  end(): void {
    this.#fetcher?.abort()
    this.onChange?.()
  }
}
