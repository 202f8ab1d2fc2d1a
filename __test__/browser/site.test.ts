import { once } from 'node:events'
import { mkdirSync, readFileSync, statSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { extname } from 'node:path'
import { fileURLToPath } from 'node:url'
import test from 'ava'
import type { Page } from 'playwright-core'
import { buildSite, SITE } from '../support/site.js'
import { costOf, Headless, type Opening } from './chromium.js'

// The site in a real browser, which reaches nothing but the site. Screenshots are in target/site-shots.

const root = fileURLToPath(new URL('../../', import.meta.url))
const shots = `${root}target/site-shots/`
const AXE = readFileSync(`${root}site/node_modules/axe-core/axe.min.js`, 'utf8')
const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.svg': 'image/svg+xml',
}

const all = buildSite()
/** The pages that people wrote. */
const written = all.filter(page => page.startsWith('pages/') || page === 'index.html')
const reference = all.filter(page => !written.includes(page))

const headless = new Headless(test)
let server: Server
let origin: string
test.before(async () => {
  mkdirSync(shots, { recursive: true })
  server = createServer(({ url = '/' }, answer) => {
    try {
      const path = new URL(url, 'http://site').pathname
      const file = readFileSync(SITE + decodeURI(path.endsWith('/') ? `${path}index.html` : path))
      answer.writeHead(200, { 'content-type': TYPES[extname(path)] ?? 'application/octet-stream' }).end(file)
    } catch {
      answer.writeHead(404).end()
    }
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
})
test.after.always(() => void server?.close())

/** A window of this width, and what goes wrong in it. */
async function opened(width: number, colorScheme: 'light' | 'dark' = 'light'): Promise<Opening> {
  const isHere = (url: string): boolean => url.startsWith(origin) || url.startsWith('data:')
  return await headless.open(isHere, { viewport: { width, height: 800 }, colorScheme })
}

/** What is wider than the window, and does not scroll by itself. */
async function overflow(page: Page): Promise<string[]> {
  return await page.evaluate(() => {
    const { clientWidth, scrollWidth } = document.documentElement
    if (scrollWidth <= clientWidth) return []
    const wide = [...document.querySelectorAll('body *')].filter(
      each => each.getBoundingClientRect().right > clientWidth + 1,
    )
    return [
      `${scrollWidth} pixels`,
      ...wide.slice(0, 5).map(each => `${each.tagName} ${each.className} ${each.textContent?.slice(0, 40)}`),
    ]
  })
}

test('every page is shown at 360 pixels without errors, requests to others, or anything that sticks out', async t => {
  t.true(written.length > 24 && reference.length > 100)
  await using opening = await opened(360)
  const { page, troubles } = opening
  for (const name of all) {
    await page.goto(`${origin}/${name}`)
    t.deepEqual(await overflow(page), [], name)
    if (['index.html', 'pages/start.html'].includes(name))
      await page.screenshot({ path: `${shots}${name.replace('/', '-')}-360.png` })
  }
  t.deepEqual(troubles, [])
})

interface Finding {
  id: string
  nodes: { target: string[]; html: string; failureSummary: string }[]
}

for (const scheme of ['light', 'dark'] as const) {
  test(`what people wrote can be read by everybody, ${scheme}: axe finds nothing`, async t => {
    await using opening = await opened(1280, scheme)
    const { page, troubles } = opening
    const some = reference.filter(name =>
      /UblkDevice|CreateOptions|memory\.html|modules\/ublk-ts\.html/.test(name),
    )
    // In the dark only colours are others, and these pages have all of them.
    const dark = written.filter(name => /index|start|testing|command-line|compare|faq/.test(name))
    for (const name of [...(scheme === 'light' ? written : dark), ...some]) {
      await page.goto(`${origin}/${name}`)
      await page.evaluate(AXE)
      const findings: Finding[] = await page.evaluate(async () => {
        const dark = matchMedia('(prefers-color-scheme: dark)').matches
        const { axe } = globalThis as unknown as {
          axe: { run(what: object): Promise<{ violations: Finding[] }> }
        }
        return (
          await axe.run({
            runOnly: dark ? ['color-contrast', 'link-in-text-block'] : ['wcag2a', 'wcag2aa', 'wcag21aa'],
            // TypeDoc's navigation has links in what opens a section. Both are reached with the keyboard: see below.
            rules: { 'nested-interactive': { enabled: false } },
            resultTypes: ['violations'],
          } as object)
        ).violations
      })
      const told = findings.map(
        ({ id, nodes }) =>
          `${id}: ${nodes
            .slice(0, 3)
            .map(({ html, failureSummary }) => `${html.slice(0, 200)} ${failureSummary}`)
            .join('; ')}`,
      )
      t.deepEqual(told, [], name)
    }
    t.deepEqual(troubles, [])
  })
}

test('everything on a page is reached with the keyboard, and seen when it is', async t => {
  await using opening = await opened(1280)
  const { page, troubles } = opening
  await page.goto(`${origin}/pages/testing.html`)
  await page.waitForSelector('.tsd-navigation a')
  const wanted = await page.evaluate(() => {
    const seen = [
      ...document.querySelectorAll<HTMLElement>('a[href], button, summary, input, select'),
    ].filter(each => each.checkVisibility({ visibilityProperty: true }))
    seen.forEach((each, number) => {
      each.dataset['number'] = `${number}`
    })
    return seen.length
  })
  const reached = new Set<string>()
  for (let times = 0; times < wanted + 10; times++) {
    await page.keyboard.press('Tab')
    const number = await page.evaluate(
      () => (document.activeElement as HTMLElement | null)?.dataset['number'],
    )
    if (number !== undefined) reached.add(number)
  }
  const missed = await page.evaluate(
    numbers =>
      [...document.querySelectorAll<HTMLElement>('[data-number]')]
        .filter(each => !numbers.includes(each.dataset['number'] ?? ''))
        .map(each => each.outerHTML.slice(0, 150)),
    [...reached],
  )
  t.deepEqual(missed, [])
  t.deepEqual(troubles, [])
})

test('the search finds pages, commands and functions, with the keyboard alone', async t => {
  await using opening = await opened(1280)
  const { page, troubles } = opening
  for (const [words, found] of [
    ['seccomp', /pages\/containers\.html/],
    ['tmpDisk', /functions\/ublk-ts_testing\.tmpDisk\.html/],
    ['PostgreSQL', /pages\/databases\.html/],
  ] as const) {
    await page.goto(`${origin}/pages/start.html`)
    await page.waitForSelector('.tsd-navigation a')
    await page.keyboard.press('/')
    await page.waitForSelector('#tsd-search[open] input:focus')
    // The index is loaded then.
    await page.waitForSelector('#tsd-search-status:empty', { state: 'attached' })
    await page.keyboard.type(words)
    await page.waitForSelector('#tsd-search-results li a')
    const hrefs = await page
      .locator('#tsd-search-results li a')
      .evaluateAll(links => links.map(link => (link as HTMLAnchorElement).href))
    t.true(
      hrefs.some(href => found.test(href)),
      `${words}: ${hrefs}`,
    )
    await page.keyboard.press('ArrowDown')
    await page.keyboard.press('Enter')
    await page.waitForURL(url => !url.pathname.endsWith('start.html'))
  }
  t.deepEqual(troubles, [])
})

test('the navigation has the sections in order, and leads from the first page to each', async t => {
  await using opening = await opened(1280)
  const { page } = opening
  await page.goto(`${origin}/index.html`)
  await page.waitForSelector('.tsd-navigation a')
  const names = await page
    .locator('#tsd-nav-container > li')
    .evaluateAll(items => items.map(item => item.querySelector('a')?.textContent?.trim() ?? ''))
  t.deepEqual(names.slice(0, 7), [
    'Start',
    'Recipes',
    'Guides',
    'Reference',
    'Compare',
    'Troubleshooting',
    'Questions',
  ])
  await page.screenshot({ path: `${shots}index-1280.png` })
})

test('what the first page and the longest one cost', async t => {
  const sizes = all.map(name => [statSync(SITE + name).size, name] as const)
  const [, longest = ''] = sizes.sort(([a], [b]) => b - a)[0] ?? []
  for (const name of ['index.html', longest]) {
    await using opening = await opened(1280)
    const { page, troubles } = opening
    await page.goto(`${origin}/${name}`)
    await page.waitForSelector('.tsd-navigation a')
    t.log(`${name}: ${await costOf(page)}`)
    t.deepEqual(troubles, [])
  }
})
