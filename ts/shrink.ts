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
    const count = Math.ceil(present.length / size)
    const chunks = Array.from({ length: count }, (_, at) => present.slice(at * size, (at + 1) * size))
    const without = (chunk: readonly T[]): T[] => present.filter(each => !chunk.includes(each))
    // Of two halves, what one lacks is the other.
    const smaller = await first(count > 2 ? [...chunks, ...chunks.map(without)] : chunks, fails)
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

async function first<T>(
  sets: readonly (readonly T[])[],
  fails: (some: readonly T[]) => Promise<boolean>,
): Promise<readonly T[] | undefined> {
  for (const set of sets) if (await fails(set)) return set
  return undefined
}
