import type { TestFn } from 'ava'
import { type Browser, type BrowserContextOptions, chromium, type Page } from 'playwright-core'

// Debian's Chromium, or the program that UBLK_TS_BROWSER names.
const executablePath = process.env['UBLK_TS_BROWSER'] ?? '/usr/bin/chromium-headless-shell'

const ARGS = [
  '--no-sandbox', // Root's processes have none of their own in containers; the pages are ours.
  '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1', // As without a network.
]

/** A page in a window of its own, and what went wrong in it. */
export interface Opening extends AsyncDisposable {
  readonly page: Page
  /** What it complained of, its errors, and its requests to others. */
  readonly troubles: string[]
}

/** A headless browser for the tests of a file, until the last of them has ended. */
export class Headless {
  #browser: Browser | undefined

  constructor(test: TestFn) {
    test.before(async () => {
      this.#browser = await chromium.launch({ executablePath, args: ARGS })
    })
    test.after.always(async () => await this.#browser?.close())
  }

  /**
   * Opens a window. There is no network: it reaches servers on the loopback address only.
   *
   * @param mayRequest - Which URLs it may ask for.
   */
  async open(mayRequest: (url: string) => boolean, options: BrowserContextOptions): Promise<Opening> {
    if (!this.#browser) throw new Error('the browser starts before the tests')
    const context = await this.#browser.newContext(options)
    const troubles: string[] = []
    const page = await context.newPage()
    page.on('console', message => troubles.push(`${page.url()}: ${message.type()}: ${message.text()}`))
    page.on('pageerror', error => troubles.push(`${page.url()}: ${error}`))
    page.on('request', request => {
      if (!mayRequest(request.url())) troubles.push(`requests ${request.url()}`)
    })
    page.on('response', response => {
      if (response.status() >= 400) troubles.push(`${response.status()} for ${response.url()}`)
    })
    return { page, troubles, [Symbol.asyncDispose]: async () => await context.close() }
  }
}

/** What a page costs, in words: to be called once it has been shown. */
export async function costOf(page: Page): Promise<string> {
  const cost = await page.evaluate(async () => {
    const entries = await new Promise<readonly PerformanceEntry[]>(resolve => {
      const observer = new PerformanceObserver(list => resolve(list.getEntries()))
      observer.observe({ type: 'longtask', buffered: true })
      setTimeout(() => resolve([]), 500)
    })
    const loaded = [
      ...performance.getEntriesByType('navigation'),
      ...performance.getEntriesByType('resource'),
    ] as PerformanceResourceTiming[]
    const [paint] = performance.getEntriesByName('first-contentful-paint')
    return {
      paint: paint?.startTime ?? Number.NaN,
      bytes: loaded.reduce((sum, { encodedBodySize }) => sum + encodedBodySize, 0),
      requests: loaded.length,
      elements: document.querySelectorAll('*').length,
      long: entries.map(({ duration }) => duration),
    }
  })
  const { paint, bytes, requests, elements, long } = cost
  const longest = long.length > 0 ? `, the longest ${Math.max(...long)} ms` : ''
  return `first contentful paint ${Math.round(paint)} ms; ${(bytes / 1024).toFixed(0)} KiB in ${requests} requests; ${elements} elements; ${long.length} tasks over 50 ms${longest}`
}
