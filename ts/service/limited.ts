/** How much is told in each span of time, in milliseconds. */
const MOST = 10
const SPAN = 1000

/**
 * Makes a function that passes on at most ten things a second, since each failed request of a busy disk is one. Of how many
 * more there were, `more` is told, a second after the first of them.
 */
export function limited<T>(tell: (what: T) => void, more: (count: number) => void): (what: T) => void {
  let since = Number.NEGATIVE_INFINITY
  let told = 0
  let left = 0
  const close = (): void => {
    if (left > 0) more(left)
    left = 0
    told = 0
  }
  return what => {
    // No timer while all is told: who waits for nothing is not woken.
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
