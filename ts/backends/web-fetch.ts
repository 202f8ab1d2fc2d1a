/** What is known of fetches from web servers without what makes the requests, which most programs never need. */
import type { Fetch } from '../runtime/lazy-fetcher.js'

/** How many requests are under way at a time. */
const MOST_REQUESTS = 8

const FROM_SERVERS = new WeakSet<Fetch>()

/** Notes that a function fetches from a web server. */
export function markFromServer(fetch: Fetch): void {
  FROM_SERVERS.add(fetch)
}

/** How many fetches of this function may be under way at a time; undefined for any number. */
export function mostAtOnce(fetch: Fetch): number | undefined {
  return FROM_SERVERS.has(fetch) ? MOST_REQUESTS : undefined
}

/** A URL as it can be shown: without what may be secret. */
export function shownUrl(url: string): string {
  const { protocol, host, pathname } = new URL(url)
  return `${protocol}//${host}${pathname}`
}
