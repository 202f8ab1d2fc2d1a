import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import test from 'ava'
import type { AxeResults } from 'axe-core'
import type { Page } from 'playwright-core'
import { Dashboard } from '../../dist/dashboard/server.js'
import type { Source } from '../../dist/dashboard/source.js'
import { MadeUp, Replay } from '../support/dashboard.js'
import { costOf, Headless } from './chromium.js'

// The dashboard in a real browser, as in report.test. Screenshots are in target/dashboard.

const dir = fileURLToPath(new URL('../../target/dashboard/', import.meta.url))
const headless = new Headless(test)
test.before(() => void mkdirSync(dir, { recursive: true }))

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')

interface View {
  readonly width?: number
  readonly colorScheme?: 'light' | 'dark'
  readonly mayChange?: boolean
  readonly period?: number
  readonly now?: () => number
}

/** A dashboard that is served, opened in the browser, and what that complained of. */
async function opened(source: Source, view: View = {}) {
  const { width = 1440, colorScheme = 'light', mayChange = false, period = 200, now } = view
  const dashboard = await Dashboard.listen(source, { port: 0, mayChange, period, ...(now ? { now } : {}) })
  const isHere = (url: string): boolean => url.startsWith(dashboard.origin) || url.startsWith('data:')
  const opening = await headless.open(isHere, { viewport: { width, height: 1000 }, colorScheme })
  const { page, troubles } = opening
  await page.goto(dashboard.url)
  await page.locator('.rows .row').first().waitFor()
  return {
    page,
    dashboard,
    troubles,
    async [Symbol.asyncDispose]() {
      await opening[Symbol.asyncDispose]()
      await dashboard.close()
    },
  }
}

/** What axe finds wrong. */
async function wrongs(page: Page): Promise<string[]> {
  await page.evaluate(AXE)
  const { violations } = (await page.evaluate('axe.run()')) as AxeResults
  return violations.flatMap(({ id, nodes }) =>
    nodes.map(node => `${id}: ${node.html.slice(0, 120)} ${node.failureSummary}`),
  )
}

async function overflows(page: Page): Promise<number> {
  return await page.evaluate(
    () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
  )
}

for (const width of [360, 1440]) {
  for (const colorScheme of ['light', 'dark'] as const) {
    test(`the dashboard has no errors, no foreign requests and no overflow, ${width} pixels, ${colorScheme}`, async t => {
      using source = new MadeUp(40)
      await using opening = await opened(source, { width, colorScheme })
      const { page, troubles } = opening
      await page.locator('.rows .row').first().click()
      await page.locator('#cell', { hasText: 'cells' }).waitFor()
      await page.waitForTimeout(300)
      t.is(await overflows(page), 0)
      await page.screenshot({ path: `${dir}made-up-${width}-${colorScheme}.png`, fullPage: true })
      t.deepEqual(await wrongs(page), [])
      t.deepEqual(troubles, [])
    })
  }
}

test('of a thousand disks only those in sight are in the page, which stays smooth', async t => {
  using source = new MadeUp(1000)
  await using opening = await opened(source, { period: 1000 })
  const { page, troubles } = opening
  const rows = async (): Promise<number> => await page.locator('.rows .row').count()
  t.true((await rows()) < 60)
  // Frames while numbers come, while the list is scrolled, and while it is in an order that changes.
  const framesOf = async (what: string, act: () => Promise<unknown>): Promise<void> => {
    await page.evaluate(() => {
      const frames: number[] = []
      let [last, on] = [performance.now(), true]
      const tick = (now: number): void => {
        frames.push(now - last)
        last = now
        if (on) requestAnimationFrame(tick)
      }
      requestAnimationFrame(tick)
      Object.assign(window, {
        endOfFrames: () => {
          on = false
          return frames.slice(1)
        },
      })
    })
    await act()
    const frames = (await page.evaluate('endOfFrames()')) as number[]
    frames.sort((a, b) => a - b)
    const at = (part: number): string => (frames[Math.floor((frames.length - 1) * part)] ?? 0).toFixed(1)
    const late = frames.filter(each => each > 50).length
    t.log(
      `${what}: ${frames.length} frames, median ${at(0.5)} ms, 99 % ${at(0.99)}, longest ${at(1)}; ${late} over 50 ms`,
    )
  }
  await framesOf('1,000 disks, numbers come', async () => await page.waitForTimeout(3000))
  await framesOf('1,000 disks, scrolled', async () => {
    await page.locator('#list').hover()
    for (let steps = 0; steps < 60; steps++) {
      await page.mouse.wheel(0, 400)
      await page.waitForTimeout(20)
    }
  })
  t.true((await rows()) < 60)
  await page.locator('.head button', { hasText: 'IOPS' }).click()
  await page.locator('.rows .row').first().click()
  await framesOf('1,000 disks, sorted by load, one shown', async () => await page.waitForTimeout(3000))
  t.true((await rows()) < 60)
  t.is(await page.locator('#list').getAttribute('aria-rowcount'), '1001')
  await page.screenshot({ path: `${dir}thousand.png` })
  t.deepEqual(troubles, [])
})

test('what the dashboard of a thousand disks costs', async t => {
  using source = new MadeUp(1000)
  await using opening = await opened(source, { period: 1000 })
  t.log(await costOf(opening.page))
  t.deepEqual(opening.troubles, [])
})

test('the dashboard is used with the keyboard alone', async t => {
  using source = new MadeUp(300)
  await using opening = await opened(source)
  const { page, troubles } = opening
  const focused = async (selector: string): Promise<void> => {
    for (let times = 0; times < 40; times++) {
      await page.keyboard.press('Tab')
      if (await page.evaluate(wanted => document.activeElement?.matches(wanted) ?? false, selector)) return
    }
    t.fail(`Tab does not lead to ${selector}`)
  }
  const active = async (): Promise<string | null> =>
    await page.locator('#list').getAttribute('aria-activedescendant')
  await focused('#filter')
  await page.keyboard.type('disk-29')
  t.is(await page.locator('#shown').textContent(), '11 of 300')
  await page.keyboard.press('Control+a')
  await page.keyboard.press('Delete')
  await focused('#list')
  await page.keyboard.press('ArrowDown')
  t.is(await active(), 'disk-0')
  await page.keyboard.press('End')
  t.is(await active(), 'disk-299')
  await page.keyboard.press('ArrowUp')
  t.is(await active(), 'disk-298')
  t.true(await page.locator('#disk-298').isVisible())
  await page.keyboard.press('Home')
  for (let times = 0; times < 3; times++) await page.keyboard.press('ArrowDown')
  await page.keyboard.press('Enter')
  t.is(await page.locator('#one-h').textContent(), 'ublkb3')
  t.true(page.url().endsWith('#ublkb3'))
  t.is(await page.locator('#disk-3').getAttribute('aria-selected'), 'true')
  // Its map.
  await page.locator('#cell', { hasText: 'cells' }).waitFor()
  await focused('#kinds input')
  await page.keyboard.press('ArrowRight')
  t.is(await page.locator('#kinds :checked').getAttribute('value'), 'read')
  await focused('#heat')
  await page.keyboard.press('ArrowRight')
  t.regex(
    (await page.locator('#cell').textContent()) ?? '',
    /^Bytes 0 to 4095 \(0 B\): read .* written .* since this page looks\.$/,
  )
  await page.keyboard.press('End')
  t.regex((await page.locator('#cell').textContent()) ?? '', /^Bytes 16773120 to 16777215 /)
  // Loaded again, it shows the same disk; Escape shows all.
  await page.reload()
  await page.locator('#one-h', { hasText: 'ublkb3' }).waitFor()
  await focused('#list')
  await page.keyboard.press('Escape')
  t.is(await page.locator('#one-h').textContent(), 'All disks')
  t.deepEqual(troubles, [])
})

test('the dashboard says what it cannot read, and when its server is gone', async t => {
  using source = new MadeUp(20)
  await using opening = await opened(source)
  const { page, dashboard } = opening
  await page.locator('#disk-13').click()
  t.is(await page.locator('#trouble').textContent(), 'It cannot be read: nobody can be asked about device 13')
  source.failure = new Error('no /dev/ublk-control <b>here</b>')
  await page
    .locator('#state', { hasText: 'The disks cannot be read: no /dev/ublk-control <b>here</b>' })
    .waitFor()
  source.failure = undefined
  await page.locator('#state', { hasText: '20 disks' }).waitFor()
  await dashboard.close()
  await page.locator('#state.off', { hasText: 'does not answer' }).waitFor()
})

test('the token is in the address only until the page has it, and survives a reload', async t => {
  using source = new MadeUp(20)
  await using opening = await opened(source, { mayChange: true })
  const { page, dashboard, troubles } = opening
  t.is(page.url(), `${dashboard.origin}/`)
  t.deepEqual(await page.context().cookies(), [])
  // No name of a disk.
  await page.goto(`${dashboard.origin}/#%`)
  await page.reload()
  await page.locator('.rows .row').first().waitFor()
  t.is(await page.locator('#one-h').textContent(), 'All disks')
  t.deepEqual(troubles, [])
  const stranger = await page.context().newPage()
  await stranger.goto(dashboard.origin)
  await stranger.locator('#state.off', { hasText: 'open the URL that was printed' }).waitFor()
  await stranger.goto(dashboard.url)
  await stranger.locator('.rows .row').first().waitFor()
})

test('a page that is hidden asks for nothing', async t => {
  using source = new MadeUp(20)
  await using opening = await opened(source)
  const { page } = opening
  const hide = async (hidden: boolean): Promise<void> =>
    await page.evaluate(value => {
      Object.defineProperty(document, 'hidden', { value, configurable: true })
      document.dispatchEvent(new Event('visibilitychange'))
    }, hidden)
  const ended = page.waitForEvent('requestfailed', request => request.url().includes('/events'))
  await hide(true)
  await ended
  const begun = page.waitForEvent('request', request => request.url().includes('/events'))
  await hide(false)
  await begun
  await page.locator('#state', { hasText: '20 disks' }).waitFor()
  t.pass()
})

test('a page looks at a disk only while it is seen', async t => {
  using source = new MadeUp(20)
  await using opening = await opened(source)
  const { page } = opening
  await page.locator('#disk-0').click()
  await page.locator('#cell', { hasText: 'cells' }).waitFor()
  t.is(source.looking, 1)
  await page.locator('#disk-3').click()
  await page.locator('#one-h', { hasText: 'ublkb3' }).waitFor()
  await page.locator('#cell', { hasText: 'cells' }).waitFor()
  t.is(source.looking, 1)
  await page.locator('#back').click()
  while (source.looking > 0) await page.waitForTimeout(20)
  t.is(await page.evaluate(() => document.activeElement?.id), 'list')
})

// What the test on a kernel has recorded: disks that were read and written by fio. A fresh recording, if there is one; else the
// one that is kept here.
const recorded = [
  fileURLToPath(new URL('../dashboard.json.gz', import.meta.url)),
  fileURLToPath(new URL('../../__test__/browser/dashboard.json.gz', import.meta.url)),
].find(existsSync)

// The tests on a kernel come first.
const ifRecorded = recorded === undefined ? test.skip : test

ifRecorded('disks that were recorded under load are shown as they were', async t => {
  using source = Replay.of(recorded ?? '')
  const period = 60
  await using opening = await opened(source, { width: 1280, period, now: () => source.now() })
  const { page, troubles } = opening
  const shown = async (id: number, kinds: readonly string[]): Promise<void> => {
    await page.locator(`#disk-${id}`).click()
    await page.locator('#one-h', { hasText: `ublkb${id}` }).waitFor()
    for (const kind of kinds) await page.locator(`#kinds input[value=${kind}]`).waitFor()
  }
  /** How many cells have another colour than nothing. */
  const inked = async (): Promise<number> =>
    await page.locator('#heat').evaluate(each => {
      const { width, height } = each as HTMLCanvasElement
      // Of a copy: Chromium warns of a canvas that is read again and again.
      const copy = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true })
      copy?.drawImage(each as HTMLCanvasElement, 0, 0)
      const { data } = copy?.getImageData(0, 0, width, height) ?? { data: [] }
      const pixels = Array.from({ length: width * height }, (_, at) => data.slice(at * 4, at * 4 + 4).join())
      return pixels.filter(pixel => pixel !== pixels.at(-1)).length
    })
  await page.locator('#state', { hasText: '4 disks' }).waitFor()
  await page.locator('#disk-1').click()
  await page.locator('#one-h', { hasText: 'ublkb1' }).waitFor()
  using _ = await source.play()
  await shown(1, ['both', 'layered'])
  await page.waitForFunction(() => !document.querySelector('#cell')?.textContent?.startsWith('Waiting'))
  // A sixth of its 4096 cells was used, and what was written is over the base.
  await page.locator('#kinds label', { hasText: 'over the base' }).click()
  await page.waitForTimeout(100)
  const layered = await inked()
  t.true(layered > 0 && layered <= 700, `${layered}`)
  t.regex(
    (await page.locator('#stack').textContent()) ?? '',
    /overlay.*upper, written.*vm1\.cow.*file.*base.*48 MiB/,
  )
  await page.locator('#kinds label', { hasText: 'read and written' }).click()
  await page.waitForTimeout(200)
  t.true((await inked()) > 0)
  const place = process.env['UBLK_TS_SCREENSHOT'] ?? `${dir}dashboard.png`
  await page.evaluate(() => scrollTo(0, 0))
  await page.screenshot({ path: place, clip: { x: 0, y: 0, width: 1280, height: 1300 }, fullPage: true })
  await shown(2, ['present', 'dirty'])
  t.regex(
    (await page.locator('#lazy').textContent()) ?? '',
    /^[\d.]+ % of 48 MiB is there; clients wrote .*; the cache holds at most 15\.\d MiB; /,
  )
  await shown(3, ['faults'])
  t.regex((await page.locator('#faults').textContent()) ?? '', /op=read,every=50,errno=EIO|Rule/)
  t.deepEqual(troubles, [])
})
