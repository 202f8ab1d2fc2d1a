import type * as native from '#binding'
import { checkOptions } from './check.js'
import { wrongType } from './errors.js'
import type { ChangedPart, ChangedRanges } from './info.js'
import { nameOf } from './user-values.js'

/** Of what to ask for changes. */
export interface ChangedOptions {
  /** The name of the checkpoint. */
  since: string
}

/** How many ranges are asked for at a time. */
const AT_ONCE = 2 ** 15

/**
 * Checks the name of a checkpoint; its length is checked later.
 *
 * @throws UblkError of kind `invalid`.
 */
export function checkName(name: unknown): asserts name is string {
  if (typeof name !== 'string' || name === '') {
    throw wrongType(`the name of a checkpoint must be text, not ${nameOf(name)}`, "such as 'monday'")
  }
}

/**
 * Checks for what changes were asked.
 *
 * @throws UblkError of kind `invalid`.
 */
export function checkChanged(options: unknown): asserts options is ChangedOptions {
  checkOptions<ChangedOptions>(options, 'changed()', { since: true })
  checkName(options.since)
}

/** What a device of this process says of its changes. */
export async function changedPart(device: native.Device, since: string, from: number): Promise<ChangedPart> {
  const { size, known, ranges, next } = await device.changed(since, from, AT_ONCE)
  return { size, known, ranges, next: next ?? null }
}

/** All changes, from parts that begin at an offset each. */
export async function allChanged(
  since: string,
  part: (from: number) => Promise<ChangedPart>,
): Promise<ChangedRanges> {
  const all: ChangedRanges = { since, size: 0, known: true, bytes: 0, ranges: [] }
  for (let from: number | null = 0; from !== null; ) {
    const { size, known, ranges, next } = await part(from)
    if (!known && from > 0) return await allChanged(since, part) // It was resized, or a checkpoint was removed, meanwhile.
    Object.assign(all, { size, known })
    for (let at = 0; at < ranges.length; at += 2) {
      const [offset, length] = [ranges[at] as number, ranges[at + 1] as number]
      all.ranges.push({ offset, length })
      all.bytes += length
    }
    from = next
  }
  return all
}
