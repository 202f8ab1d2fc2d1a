/** The limit: messages per span, in milliseconds. */
const MOST = 10
const SPAN = 1000

/**
 * Makes a function that passes on at most ten values per second, since each failed request of a busy disk logs one.
 * `more` is called with the number of the others, a second after the first of them.
 */
export function rateLimited<T>(tell: (what: T) => void, more: (count: number) => void): (what: T) => void {
  let since = Number.NEGATIVE_INFINITY
  let told = 0
  let left = 0
  const close = (): void => {
    if (left > 0) more(left)
    left = 0
    told = 0
  }
  return what => {
    // No timer unless something was dropped, so that an idle process does not wake up.
    if (left === 0 && performance.now() - since >= SPAN) {
      since = performance.now()
      told = 0
    }
    if (told < MOST) {
      told++
      tell(what)
    } else if (left++ === 0) {
      setTimeout(() => {
        close()
        since = performance.now()
      }, SPAN).unref()
    }
  }
}
