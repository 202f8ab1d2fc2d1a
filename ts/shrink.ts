/**
 * Tries smaller and smaller sets of which all fail, until none fails that lacks one element of the last (delta debugging).
 *
 * @param all - A set that fails.
 * @param fails - Whether a set fails still.
 * @returns The last set that failed.
 */
export async function fewest<T>(
  all: readonly T[],
  fails: (some: readonly T[]) => Promise<boolean>,
): Promise<readonly T[]> {
  let [present, parts] = [all, 2]
  while (present.length > 1) {
    const size = Math.ceil(present.length / parts)
    const smaller = await first(subsets(present, size), fails)
    if (smaller) {
      parts = smaller.length <= size ? 2 : Math.max(parts - 1, 2)
      present = smaller
    } else if (size === 1) {
      return present
    } else {
      parts = Math.min(parts * 2, present.length)
    }
  }
  return present
}

/** One after the other, so that there are never all of them: parts of a set of this size, then what is left without each of these. */
function* subsets<T>(all: readonly T[], size: number): Generator<readonly T[], void, undefined> {
  for (let at = 0; at < all.length; at += size) yield all.slice(at, at + size)
  // Of two halves, what one lacks is the other.
  if (all.length <= 2 * size) return
  for (let at = 0; at < all.length; at += size) yield [...all.slice(0, at), ...all.slice(at + size)]
}

async function first<T>(
  sets: Iterable<readonly T[]>,
  fails: (some: readonly T[]) => Promise<boolean>,
): Promise<readonly T[] | undefined> {
  for (const set of sets) if (await fails(set)) return set
  return undefined
}
