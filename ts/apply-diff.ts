import { closeSync, openSync, readFileSync, readSync, statSync } from 'node:fs'
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
  const list = listOf(from)
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

interface List {
  size: number
  ranges: Float64Array
}

/**
 * The list beside a raw file; undefined if the file is a stream, or there is no list. The content of a raw file is the disk's, so
 * it may begin as a stream does: a list that fits decides.
 */
function listOf(path: string): List | undefined {
  const text = textOf(`${path}.json`)
  if (text === undefined) return undefined // then it is taken for a stream, and refused if it is none
  const list = parsed(text)
  if (list?.size === statSync(path, { throwIfNoEntry: false })?.size) return list
  if (isStream(path)) return undefined
  if (list) return list // it is refused, since the sizes differ
  throw new UblkError('backend', `${path}.json is not the list of a diff`, {
    hint: 'nothing was changed: copy it again',
  })
}

function textOf(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (code === 'ENOENT') return undefined
    throw new UblkError('backend', `cannot read the list of the diff: ${message}`, {
      hint: 'nothing was changed',
      cause: error,
      ...(code === undefined ? {} : { code }),
    })
  }
}

function parsed(text: string): List | undefined {
  try {
    const { size, ranges } = JSON.parse(text) as {
      size: number
      ranges: { offset: number; length: number }[]
    }
    const numbers = ranges.flatMap(({ offset, length }) => [offset, length])
    if (![size, ...numbers].every(number => Number.isSafeInteger(number) && number >= 0)) return undefined
    return { size, ranges: Float64Array.from(numbers) }
  } catch {
    return undefined
  }
}
