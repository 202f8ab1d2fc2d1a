import test from 'ava'
import type { Account, Entry, Written } from '../../dist/report/account.js'
import { reportPage } from '../../dist/report/page.js'
import { firstNotBelow, placeScale, timeScale } from '../../dist/report/scale.js'
import { counted, escaped, exactly, grouped, listed, named, roughly } from '../../dist/report/words.js'
import { madeUp, shrunk } from '../support/account.js'

/** The text of the first part of a page that begins like this. */
function part(page: string, start: string, end: string): string {
  const from = page.indexOf(start)
  return from === -1 ? '' : page.slice(from, page.indexOf(end, from) + end.length)
}

/** A page without its script and style, which are always the same. */
const body = (page: string): string => page.replace(/<(script|style)>[\s\S]*?<\/\1>/g, '')

const text = (html: string): string =>
  html
    .replace(/<[^>]*>/g, ' ')
    .replace(/\s+/g, ' ')
    .trim()

test('a report says what is lost, why that could be, and which of it matters', t => {
  const subject = madeUp({ rounds: 3, writes: 6 })
  const [first, second] = subject.lost
  const plain = reportPage(subject)
  for (const each of [first, second]) {
    t.regex(plain, new RegExp(`<tr class="?[lp]( i)?"?[^>]*><td>${each?.write}<`))
    t.true(text(part(plain, '<ul class=losses>', '</ul>')).includes(`write ${each?.write}`))
  }
  t.false(plain.includes('class=ring '), 'nothing was shrunk')
  const least = reportPage(shrunk(subject))
  t.true(least.includes('class=ring '))
  const matters = text(part(least, '<h2>What matters', '</ul>'))
  t.true(matters.includes(`write ${first?.write}`) && !matters.includes(`write ${second?.write}`), matters)
  t.regex(matters, /what was there before is still there\. It was answered, and no flush came afterwards\./)
  const row = part(least, `id=w${first?.write}`, '\n')
  t.regex(row, /<b>A<\/b>(in flight, )?lost/)

  const none = reportPage({ ...subject, shrunk: { id: '5', lost: [] } })
  t.regex(text(none), /fails even when nothing is lost/)
  const whole = madeUp({ rounds: 3, writes: 6, losses: 0 })
  t.regex(text(reportPage(whole)), /Nothing: this disk has all that was written/)
})

test('what no disk may do is said, also where a durable write is lost', t => {
  const subject = madeUp({ rounds: 3, writes: 6, model: 'lying-flush' })
  const write = subject.account.entries[0] as Written
  write.lost = write.length
  subject.lost = [
    {
      write: write.number,
      offset: write.offset,
      length: write.length,
      op: 'write',
      meta: false,
      how: 'missing',
    },
  ]
  const page = text(reportPage(subject))
  t.regex(page, /No disk may do this \(model lying-flush\)/)
  t.regex(page, /a flush should have made it durable/)
  t.regex(page, /lost though durable/)
  t.notRegex(text(reportPage(madeUp({ rounds: 2, writes: 3 }))), /No disk may/)
})

test('whatever names and titles contain, they are text', t => {
  const evil = [
    '</script><script>alert(1)</script>',
    '"><img src=x onerror=alert(1)>',
    "' onclick='alert(1)",
    '<!-- ',
    '&lt;b&gt;',
    '\u202Eright to left\u0000\u001b[31m\n\r\u2028',
    '`$`',
  ]
  for (const name of evil) {
    const subject = { ...madeUp({ rounds: 4, writes: 3, mark: () => name }), title: name, id: name }
    const page = reportPage({ ...subject, shrunk: { id: name, lost: [] } })
    t.is(page.match(/<script/g)?.length, 1, name)
    t.is(page.match(/<\/script/g)?.length, 1, name)
    t.false(/<img|<!--|<b&gt;|onclick='/.test(page), name)
    // biome-ignore lint/suspicious/noControlCharactersInRegex: these must not be there
    t.false(/[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028]/.test(page))
  }
  t.is(escaped(`<a href="x" id='y'>&\``), '&#60;a href=&#34;x&#34; id=&#39;y&#39;&#62;&#38;&#96;')
  t.is(named('a'.repeat(81)), `<bdi>“${'a'.repeat(80)}…”</bdi>`)
  t.is(named('🙂'.repeat(90)), `<bdi>“${'🙂'.repeat(80)}…”</bdi>`)
})

test('a page loads nothing, and lets nothing run but its own script', t => {
  const page = reportPage(shrunk(madeUp({ rounds: 3, writes: 6 })))
  t.regex(
    page,
    /http-equiv=Content-Security-Policy content="default-src 'none'; style-src 'sha256-[^']+'; script-src 'sha256-/,
  )
  t.notRegex(body(page), /\bhttps?:|\/\/[a-z]|@import|url\((?!#)|\ssrc=|<link|<iframe|\sstyle=|\son[a-z]+=/i)
})

test('a page is at most 300 KiB, with 1 to 2000 entries, on a small disk and a large one', t => {
  for (const [rounds, writes, size] of [
    [1, 1, 4096],
    [1, 1, 2 ** 50],
    [40, 48, 2 ** 24],
    [40, 48, 2 ** 50],
    [600, 1, 2 ** 40],
  ] as const) {
    const subject = madeUp({
      rounds,
      writes,
      size,
      losses: rounds * 10,
      mark: round => `order ${round} is paid`,
    })
    const page = reportPage(shrunk(subject, 20))
    t.true(subject.account.entries.length <= 2000)
    t.true(Buffer.byteLength(page) <= 300 * 1024, `${rounds}×${writes}: ${Buffer.byteLength(page)}`)
    t.is(/NaN|Infinity|undefined|null/.exec(body(page)), null)
  }
})

test('an empty record, and one of which most is left out, have a report', t => {
  const empty = madeUp({ rounds: 1, writes: 0 })
  empty.account = { ...empty.account, heat: { start: 0, cell: 0, cells: 0, touched: [] } }
  t.regex(
    text(reportPage({ ...empty, marks: [] })),
    /after 0 writes and 0 flushes\. No mark was set\. All writes were durable\./,
  )
  const subject = madeUp({ rounds: 3, writes: 6 })
  const gap: Entry = {
    kind: 'left-out',
    start: 0,
    writes: 98_000,
    bytes: 2 ** 30,
    lossy: 3,
    flushes: 1,
    marks: 2,
  }
  const entries = [gap, ...subject.account.entries.slice(1)]
  const page = text(reportPage({ ...subject, account: { ...subject.account, entries } }))
  t.regex(page, /98,000 writes \(1 GiB\), 1 flush and 2 marks left out, of which 3 writes lost something/)
  t.regex(page, /Of 98,0\d\d entries/)
})

test('what was not durable has most of the timeline, and all of it fits', t => {
  const { account } = madeUp({ rounds: 40, writes: 30 })
  const scale = timeScale(account, 1000)
  t.is(scale.from(0), 0)
  t.true(Math.abs(scale.to(account.cut) - 1000) < 1e-6)
  let last = 0
  for (const { start, done = start } of account.entries) {
    t.true(scale.from(start) >= last && scale.to(done) <= 1000 + 1e-6 && scale.to(done) > scale.from(start))
    last = scale.from(start)
  }
  const before =
    account.entries.filter(({ start }) => start < (account.since ?? 0)).length / account.entries.length
  t.true(before > 0.9)
  t.true(scale.from(account.since ?? 0) < 800)
  // Where nothing else is, one moment does not get all of it.
  t.true(
    timeScale({ ...account, cut: account.cut, entries: account.entries.slice(0, -30) }, 1000).from(
      account.since ?? 0,
    ) > 500,
  )
})

test('places are in the order of the disk, and a discard of all of it hides none', t => {
  const { account } = madeUp({ rounds: 10, writes: 20 })
  const scale = placeScale(account, 8, 200)
  const writes = account.entries.filter((entry): entry is Written => entry.number !== undefined)
  const sorted = writes
    .flatMap(({ offset, length }) => [offset, offset + length])
    .sort((one, other) => one - other)
  for (const [at, byte] of sorted.entries()) {
    t.true(scale.at(byte) >= 8 && scale.at(byte) <= 208 + 1e-6)
    t.true(scale.at(byte) >= scale.at(sorted[at - 1] ?? 0))
  }
  const discard: Written = {
    kind: 'discard',
    number: 999,
    start: 0,
    done: 0,
    offset: 0,
    length: 16 << 20,
    standing: 'flushed',
    lost: 0,
  }
  const discarded: Account = { ...account, entries: [discard, ...account.entries] }
  const again = placeScale(discarded, 8, 200)
  t.deepEqual(again.starts, scale.starts)
  t.deepEqual([again.at(0), again.at(16 << 20)], [8, scale.at(16 << 20)])
  t.is(placeScale({ ...account, entries: [] }, 8, 200).at(5), 8)
})

test('numbers and lengths are written exactly, or rounded, as is said', t => {
  t.deepEqual([0, 512, 4096, 1536, 1 << 20, 1.5 * 2 ** 20, (1 << 20) + 512, 2 ** 50, 513].map(exactly), [
    '0 B',
    '0.5 KiB',
    '4 KiB',
    '1.5 KiB',
    '1 MiB',
    '1.5 MiB',
    '1,024.5 KiB',
    '1,024 TiB',
    '513 B',
  ])
  t.deepEqual([100, 4096, 1_069_056, 2 ** 34 + 1].map(roughly), ['100 B', '4 KiB', '1.02 MiB', '16 GiB'])
  t.deepEqual([0, 999, 1000, 1_234_567, 2 ** 53].map(grouped), [
    '0',
    '999',
    '1,000',
    '1,234,567',
    '9,007,199,254,740,992',
  ])
  t.deepEqual([counted(1, 'flush', 'flushes'), counted(2, 'flush', 'flushes')], ['1 flush', '2 flushes'])
  t.deepEqual([listed([]), listed(['a']), listed(['a', 'b', 'c'])], ['', 'a', 'a, b and c'])
  t.deepEqual(
    [0, 5, 6, 99].map(value => firstNotBelow([5, 7, 9], value)),
    [0, 0, 1, 3],
  )
})
