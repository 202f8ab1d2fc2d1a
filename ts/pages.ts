import { invalid } from './errors.js'

/** How the pages of memory are had. By default each comes with its first use, and may be swapped out. */
export interface Pages {
  /**
   * All at once: no request waits for the system to find one.
   *
   * @defaultValue false
   */
  prefault?: boolean
  /**
   * Huge ones (of 2 MiB, on most machines), as far as the system has some to give. It is refused by a kernel that never has.
   *
   * @defaultValue false
   */
  hugePages?: boolean
  /**
   * All at once, and never swapped out. Other users than root may lock as much as `ulimit -l` says.
   *
   * @defaultValue false
   */
  lock?: boolean
}

const NAMES = ['prefault', 'hugePages', 'lock'] as const

/**
 * Checks what is wished for pages.
 *
 * @param name - The option that says it.
 * @throws UblkError of kind `invalid`.
 */
export function pagesOf(pages: Pages | undefined, name: string): Pages | undefined {
  if (pages === undefined) return undefined
  const wishes: [string, unknown][] =
    typeof pages === 'object' && pages ? Object.entries(pages) : [['', pages]]
  for (const [key, value] of wishes) {
    const known = NAMES.includes(key as keyof Pages)
    if (!known || (value !== undefined && typeof value !== 'boolean')) {
      throw invalid(
        `${name} are not understood`,
        'they are { prefault, hugePages, lock }, each true or false',
      )
    }
  }
  return { ...pages }
}

const WORDS: ReadonlyMap<string, keyof Pages> = new Map([
  ['prefault', 'prefault'],
  ['huge-pages', 'hugePages'],
  ['lock', 'lock'],
])

/** Reads the value of the command line's `--buffers`, such as `prefault,lock`. */
export function parsePages(text: string): Pages {
  const wishes = text.split(',').map(word => WORDS.get(word))
  if (wishes.includes(undefined))
    throw new Error('It must be of prefault, huge-pages and lock, with commas between.')
  return Object.fromEntries(wishes.map(wish => [wish, true]))
}
