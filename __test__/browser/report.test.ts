import { mkdirSync, writeFileSync } from 'node:fs'
import { fileURLToPath, pathToFileURL } from 'node:url'
import test, { type ExecutionContext } from 'ava'
import type { Page } from 'playwright-core'
import type { Subject } from '../../dist/report/account.js'
import { reportPage } from '../../dist/report/page.js'
import { madeUp, shrunk } from '../support/account.js'
import { costOf, Headless, type Opening } from './chromium.js'

// Reports in a real browser. Screenshots are in target/report.

const dir = fileURLToPath(new URL('../../target/report/', import.meta.url))
const headless = new Headless(test)
test.before(() => void mkdirSync(dir, { recursive: true }))

const EVIL =
  '</script><script>document.title="evil"</script><img src="https://example.org/x" onerror="document.title=1">'

const SMALL = shrunk(madeUp({ rounds: 4, writes: 8 }))
const LARGE = shrunk(
  madeUp({ rounds: 40, writes: 48, size: 2 ** 40, losses: 30, mark: round => `order ${round} is paid` }),
  3,
)
const SUBJECTS: Readonly<Record<string, Subject>> = {
  small: SMALL,
  large: LARGE,
  nothing: madeUp({ rounds: 1, writes: 1, losses: 0, size: 4096 }),
  names: { ...madeUp({ rounds: 6, writes: 3, mark: round => EVIL.repeat(round) }), title: EVIL },
  illegal: madeUp({ rounds: 3, writes: 6, model: 'lying-flush' }),
}

/** A report in the browser, and what that complained of. */
async function opened(
  name: string,
  width: number,
  options: { colorScheme?: 'light' | 'dark'; javaScriptEnabled?: boolean } = {},
): Promise<Opening> {
  const path = `${dir}${name}.html`
  const { href } = pathToFileURL(path)
  writeFileSync(path, reportPage(SUBJECTS[name] as Subject))
  const isIt = (url: string): boolean => url === href || url.startsWith(`${href}#`)
  const opening = await headless.open(isIt, { viewport: { width, height: 900 }, ...options })
  await opening.page.goto(href)
  return opening
}

/** The text of the first element of these. */
async function textOf(page: Page, selector: string): Promise<string> {
  return (await page.locator(selector).first().textContent()) ?? ''
}

/** Elements that stick out of the page, or whose text sticks out of them. */
async function overflowing(page: Page): Promise<string[]> {
  return await page.evaluate(() => {
    const { clientWidth, scrollWidth } = document.documentElement
    const wide = scrollWidth > clientWidth ? [`the page has ${scrollWidth} pixels`] : []
    const inside = [...document.querySelectorAll('body *')].filter(each => {
      if (each.closest('.scroll *')) return false
      const { left, right, width } = each.getBoundingClientRect()
      return width > 0 && (left < -0.5 || right > clientWidth + 0.5)
    })
    return [
      ...wide,
      ...inside.map(each => `${each.tagName} ${each.className} ${each.textContent?.slice(0, 40)}`),
    ]
  })
}

for (const name of Object.keys(SUBJECTS)) {
  for (const width of [360, 1440]) {
    test(`the report “${name}” is shown at ${width} pixels without errors, requests or overflow`, async t => {
      for (const scheme of name === 'small' ? (['light', 'dark'] as const) : (['light'] as const)) {
        await using opening = await opened(name, width, { colorScheme: scheme })
        const { page, troubles } = opening
        t.deepEqual(await overflowing(page), [])
        await page.screenshot({ path: `${dir}${name}-${width}-${scheme}.png`, fullPage: true })
        t.log(await costOf(page))
        t.deepEqual(troubles, [])
        t.is(await page.locator('script').count(), 1)
        t.is(await page.title(), SUBJECTS[name]?.title ?? '')
      }
    })
  }
}

test('what matters is marked in the text, the timeline and the table', async t => {
  await using opening = await opened('small', 1440)
  const { page } = opening
  const [part] = SMALL.shrunk?.lost ?? []
  t.true((await textOf(page, '.losses li')).includes(`write ${part?.write}`))
  t.is(await page.locator('#tl .ring').count(), 1)
  t.is(await textOf(page, '.tag'), 'A')
  t.is(await page.locator('tr.s').count(), 1)
  await page.locator('.losses a').first().click()
  t.is(await textOf(page, 'tr:target td'), String(part?.write))
})

async function rows(page: Page): Promise<string[]> {
  return await page.locator('tbody tr:visible').evaluateAll(all => all.map(row => row.className))
}

test('the table is filtered and read with the keyboard alone', async t => {
  await using opening = await opened('small', 1440)
  const { page, troubles } = opening
  const all = await rows(page)
  const total = SMALL.account.entries.length + 1
  t.is(all.length, total)
  await tabTo(t, page, 'input[name=fate]')
  const seen: Record<string, number> = {}
  for (let times = 0; times < 6; times++) {
    await page.keyboard.press('ArrowRight')
    const name = await textOf(page, 'input[name=fate]:checked + span')
    const shown = await rows(page)
    seen[name] = shown.length
    t.is(await textOf(page, '#shown'), `${shown.length} of ${total} rows are shown.`)
  }
  const count = (...letters: string[]): number =>
    all.filter(row => letters.some(letter => row.split(' ').includes(letter))).length
  t.deepEqual(seen, {
    'what matters': 1,
    lost: SMALL.lost.length,
    kept: count('k'),
    durable: count('d'),
    'in flight': count('i'),
    'flushes and marks': count('f', 'm', 'c'),
  })
  // A place on the disk.
  const [{ offset } = { offset: 0 }] = SMALL.lost
  await page.keyboard.press('ArrowRight')
  t.is((await rows(page)).length, total)
  await tabTo(t, page, 'input[name=at]')
  await page.keyboard.type(offset.toLocaleString('en'))
  const there = SMALL.account.entries.filter(
    entry =>
      entry.offset !== undefined && entry.offset <= offset && offset < entry.offset + (entry.length ?? 0),
  )
  t.is((await rows(page)).length, there.length)
  await page.keyboard.type('x')
  t.is(await page.locator('input[name=at]').getAttribute('aria-invalid'), 'true')
  await tabTo(t, page, 'button')
  await page.keyboard.press('Enter')
  await page.waitForFunction(
    wanted => document.querySelectorAll('tbody tr:not([hidden])').length === wanted,
    total,
  )
  // From row to row, and each is shown in the timeline.
  await tabTo(t, page, 'tbody tr')
  const places = new Set<string | null>()
  for (const key of ['ArrowDown', 'ArrowDown', 'End', 'ArrowUp', 'Home']) {
    await page.keyboard.press(key)
    places.add(await page.locator('#here').getAttribute('x'))
    t.true((await textOf(page, '#detail')).length > 5)
  }
  t.true(places.size > 3)
  t.regex(await textOf(page, '#detail'), /^write 0: /)
  t.deepEqual(troubles, [])
})

async function tabTo(t: ExecutionContext, page: Page, selector: string): Promise<void> {
  for (let times = 0; times < 30; times++) {
    await page.keyboard.press('Tab')
    if (await page.evaluate(wanted => document.activeElement?.matches(wanted) ?? false, selector)) return
  }
  t.fail(`Tab does not lead to ${selector}`)
}

test('who points at a loss sees what it is, and a square of the map lists its writes', async t => {
  await using opening = await opened('small', 1440)
  const { page, troubles } = opening
  const [part] = SMALL.shrunk?.lost ?? []
  await page.locator('#detail').scrollIntoViewIfNeeded()
  const ring = await page.locator('#tl .ring').boundingBox()
  const center = { x: (ring?.x ?? 0) + (ring?.width ?? 0) / 2, y: (ring?.y ?? 0) + (ring?.height ?? 0) / 2 }
  await page.mouse.move(center.x, center.y)
  t.true((await textOf(page, '#detail')).startsWith(`write ${part?.write}: `))
  await page.mouse.click(center.x, center.y)
  await page.waitForFunction(() => document.activeElement?.matches('tbody tr'))
  t.is(await textOf(page, 'tbody tr:focus td'), String(part?.write))

  const { start, cell } = SMALL.account.heat
  const number = Math.floor(((part?.offset ?? 0) - start) / cell)
  await page.locator('#cell').scrollIntoViewIfNeeded()
  const map = await page.locator('#heat').boundingBox()
  const side = (map?.width ?? 0) / 641
  const at = (index: number): number => (1 + index * 10 + 4) * side
  await page.locator('#heat').click({ position: { x: at(number % 64), y: at(Math.floor(number / 64)) } })
  t.is(await page.locator('input[name=at]').inputValue(), `${number * cell}–${(number + 1) * cell - 1}`)
  const listed = await page.locator('tbody tr:visible td:first-child').allInnerTexts()
  t.true(listed.includes(String(part?.write)) && listed.length < 20, listed.join())
  t.deepEqual(troubles, [])
})

test('a report can be read without its script, without colours, and on paper', async t => {
  await using opening = await opened('small', 800, { javaScriptEnabled: false })
  const { page } = opening
  t.false(await page.locator('form').isVisible())
  t.is(await page.locator('tbody tr:visible').count(), SMALL.account.entries.length + 1)
  // Each fate has a sign and a word.
  const signs = await page.evaluate(() =>
    ['d', 'k', 'p', 'l'].map(letter => {
      const cell = document.querySelector(`tr.${letter} td:nth-child(2)`)
      return cell && `${getComputedStyle(cell, '::before').content} ${cell.textContent}`
    }),
  )
  t.is(new Set(signs.map(sign => sign?.slice(0, 4))).size, 4, signs.join())
  await page.emulateMedia({ media: 'print' })
  const scrolls = await page
    .locator('.scroll')
    .evaluate(({ scrollHeight, clientHeight }) => scrollHeight > clientHeight)
  t.false(scrolls)
  await page.pdf({
    path: `${dir}small.pdf`,
    format: 'A4',
    margin: { top: '1cm', bottom: '1cm', left: '1cm', right: '1cm' },
  })
})
