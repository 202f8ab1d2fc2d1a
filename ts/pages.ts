import { invalid } from './errors.js'

/** How the pages of memory are allocated. By default, each is allocated on first use, and may be swapped out. */
export interface Pages {
  /**
   * Pre-fault: allocate all pages at creation, so that no request waits for an allocation.
   *
   * @defaultValue false
   */
  prefault?: boolean
  /**
   * Use huge pages (2 MiB on most machines), as far as the system has free ones. Fails on a kernel without huge pages.
   *
   * @defaultValue false
   */
  hugePages?: boolean
  /**
   * Pre-fault all pages and lock them in memory: they are never swapped out. For users other than root, `ulimit -l` limits
   * the amount.
   *
   * @defaultValue false
   */
  lock?: boolean
}

const NAMES = ['prefault', 'hugePages', 'lock'] as const

/**
 * Checks page options.
 *
 * @param name - The name of the option, for errors.
 * @throws UblkError of kind `invalid`.
 */
export function pagesOf(pages: unknown, name: string): Pages | undefined {
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
  return { ...(pages as Pages) }
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
    throw new Error('It must be a list of prefault, huge-pages and lock, separated by commas.')
  return Object.fromEntries(wishes.map(wish => [wish, true]))
}
