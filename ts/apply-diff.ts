import { closeSync, openSync, readFileSync, readSync } from 'node:fs'
import { resolve } from 'node:path'
import * as native from '#binding'
import { abortable } from './abort.js'
import { UblkError } from './errors.js'
import { checkWaiting } from './lifecycle-options.js'
import { pathOf } from './path.js'

/** What {@link applyDiff} has done. */
export interface AppliedDiff {
  /** How many extents the diff has. */
  extents: number
  /** Bytes that they cover. */
  bytes: number
}

/**
 * Puts a diff that {@link UblkDevice.diff} has written, a stream or a raw file with its list, into a copy of the disk as it was
 * at the checkpoint. All of a stream is checked before anything is changed; of a raw file, its size and its list are. If it is
 * interrupted, the copy has a part of the diff: apply it again, which gives the same.
 *
 * @param diff - The path of the diff.
 * @param base - The path of the copy: a file that nobody serves, or a block device that nobody uses.
 * @throws UblkError: `backend` if the diff is damaged, incomplete, or of a disk of another size, or a file cannot be used;
 * `busy` if the copy is in use.
 * @throws the signal's reason if it was aborted.
 */
export async function applyDiff(
  diff: string | URL,
  base: string | URL,
  options: { signal?: AbortSignal } = {},
): Promise<AppliedDiff> {
  checkWaiting(options, 'applyDiff()')
  const from = resolve(pathOf(diff, 'the path of the diff'))
  const to = resolve(pathOf(base, 'the path of the copy'))
  const list = isStream(from) ? undefined : listOf(from)
  return await abortable(options.signal, async cancel =>
    list
      ? await native.applyRawDiff(from, list.size, list.ranges, to, cancel)
      : await native.applyDiff(from, to, cancel),
  )
}

const MAGIC = 'ublkdiff'

/** Whether a file begins as a stream does. One that cannot be read is refused later. */
function isStream(path: string): boolean {
  try {
    const file = openSync(path, 'r')
    try {
      const begin = Buffer.alloc(MAGIC.length)
      return readSync(file, begin, 0, MAGIC.length, 0) === MAGIC.length && begin.toString('latin1') === MAGIC
    } finally {
      closeSync(file)
    }
  } catch {
    return true
  }
}

/** The list beside a raw file; undefined if there is none. */
function listOf(path: string): { size: number; ranges: Float64Array } | undefined {
  let text: string
  try {
    text = readFileSync(`${path}.json`, 'utf8')
  } catch {
    return undefined // then it is taken for a stream, and refused
  }
  try {
    const { size, ranges } = JSON.parse(text) as {
      size: number
      ranges: { offset: number; length: number }[]
    }
    const numbers = ranges.flatMap(({ offset, length }) => [offset, length])
    if (![size, ...numbers].every(number => Number.isSafeInteger(number) && number >= 0))
      throw new TypeError()
    return { size, ranges: Float64Array.from(numbers) }
  } catch {
    throw new UblkError('backend', `${path}.json is not the list of a diff`, {
      hint: 'nothing was changed: copy it again',
    })
  }
}
