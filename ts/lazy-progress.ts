import type * as native from '#binding'
import { wrongNumber, wrongType } from './errors.js'
import type { DiskRange, LazyProgress } from './info.js'
import { nameOf } from './user-values.js'

/** How much of a lazy disk is there. */
export function progressOf(device: native.Device): LazyProgress | undefined {
  const now = device.lazyProgress()
  return now ? { ...now, dirty: now.dirty ?? null, max: now.max ?? null } : undefined
}

/**
 * Checks parts of a disk; whether they are on it is checked later.
 *
 * @throws UblkError of kind `invalid`.
 */
export function checkRanges(ranges: unknown): DiskRange[] {
  const hint = 'such as [{ offset: 0, length: 2 ** 20 }]'
  if (!Array.isArray(ranges)) throw wrongType(`the ranges must be a list, not ${nameOf(ranges)}`, hint)
  return ranges.map((range: unknown) => {
    const { offset, length } = (range ?? {}) as Partial<Record<keyof DiskRange, unknown>>
    for (const [name, value] of Object.entries({ offset, length })) {
      if (!Number.isSafeInteger(value) || (value as number) < 0)
        throw wrongNumber(
          `the ${name} of a range must be a whole number of bytes, not ${nameOf(value)}`,
          value,
          hint,
        )
    }
    return { offset, length } as DiskRange
  })
}
