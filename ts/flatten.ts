import type * as native from '#binding'
import { checkOptions, checkSignal } from './check.js'
import { wrap } from './errors.js'
import type { FlattenProgress } from './info.js'
import { parseSize, type Size } from './size.js'

/** How to flatten or resync a disk. */
export interface FlattenOptions {
  /**
   * The most bytes to copy per second, or text such as `'50M'`.
   *
   * @defaultValue no limit
   */
  rate?: Size
  /** Ends it; what was copied stays. */
  signal?: AbortSignal
}

/**
 * Checks the options of `flatten()` or `resync()`, and returns the rate.
 *
 * @throws UblkError of kind `invalid`.
 */
export function checkFlatten(options: unknown, what = 'flatten()'): number | undefined {
  checkOptions<FlattenOptions>(options, what, { rate: true, signal: true })
  checkSignal(options.signal)
  if (options.rate === undefined) return undefined
  return Math.max(parseSize(options.rate, 'rate'), 1)
}

/** How far the commit of a device of this process has come. */
export function committingOf(device: native.Device): FlattenProgress | undefined {
  try {
    return device.committing() ?? undefined
  } catch (error) {
    throw wrap(error)
  }
}

/** How far the flatten of a device of this process has come. */
export function flatteningOf(device: native.Device): FlattenProgress | undefined {
  try {
    return device.flattening() ?? undefined
  } catch (error) {
    throw wrap(error)
  }
}
