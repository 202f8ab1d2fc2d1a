import type { Access, BlockValue } from './history.js'

/**
 * Of what happened to a block, a part that is as wrong: without any value that does not matter, with its writes and reads, and
 * without the reads that do not matter. What is left out could have happened in any case, so the part is still wrong.
 *
 * @param read - The read that is wrong.
 * @param fails - Whether that read is wrong in a part, too.
 */
export function shortest(
  all: readonly Access[],
  read: Access,
  fails: (part: readonly Access[]) => boolean,
): readonly Access[] {
  const values = [...new Set(all.map(({ value }) => value))].filter(value => value !== read.value)
  const kept = fewest(values, some => {
    const present = new Set<BlockValue>([...some, read.value])
    return fails(all.filter(({ value }) => present.has(value)))
  })
  const present = new Set<BlockValue>([...kept, read.value])
  const part = all.filter(({ value }) => present.has(value))
  const reads = part.filter(access => access.isRead && access !== read)
  const needed = new Set(
    fewest(reads, some => {
      const chosen = new Set(some)
      return fails(part.filter(access => !access.isRead || access === read || chosen.has(access)))
    }),
  )
  return part.filter(access => !access.isRead || access === read || needed.has(access))
}

/** Leaves out half of them, a quarter, and so on, as long as what is left fails; at the end none of them can be left out. */
function fewest<T>(all: readonly T[], fails: (some: readonly T[]) => boolean): readonly T[] {
  let present = all
  for (let size = Math.ceil(all.length / 2); size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2)) {
    for (let at = 0; at < present.length; ) {
      const smaller = [...present.slice(0, at), ...present.slice(at + size)]
      if (fails(smaller)) present = smaller
      else at += size
    }
  }
  return present
}
