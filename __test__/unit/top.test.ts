import test from 'ava'
import { formatTime } from '../../dist/cli/time.js'
import { type Order, orders, rowOf, sorted, type TopRow } from '../../dist/cli/top/rows.js'
import { screen, spark, type View } from '../../dist/cli/top/screen.js'
import { intervalOf } from '../../dist/watch/interval.js'
import { opOf, queueOf, readingOf } from '../support/readings.js'

const order = (key: string): Order => {
  const found = orders.find(order => order.key === key)
  if (found) return found
  throw new Error(`no column has the key ${key}`)
}
const row = (id: number, more: Partial<TopRow> = {}): TopRow => ({
  ...{
    id,
    name: `ublkb${id}`,
    iops: 0,
    read: 0,
    write: 0,
    mean: null,
    p99: null,
    inFlight: 0,
    present: null,
    connected: null,
    behind: null,
    history: [],
  },
  ...more,
})
const view = (more: Partial<View> = {}): View => ({
  ...{
    rows: [],
    silent: 0,
    order: order('i'),
    reversed: false,
    interval: 1,
    time: new Date(),
    unicode: true,
  },
  ...more,
})

test('a row has the rates of an interval, and those before', t => {
  const before = readingOf(3, 0, [queueOf(0)])
  const now = readingOf(3, 2000, [queueOf(0, { read: opOf(10, 20), write: opOf(30, 30), inFlight: 1 })])
  const first = rowOf(intervalOf(undefined, before), undefined)
  t.deepEqual(first.history, [])
  t.deepEqual(rowOf(intervalOf(before, now), { ...first, history: [7] }), {
    ...{
      present: null,
      connected: null,
      behind: null,
      id: 3,
      name: 'ublkb3',
      iops: 2,
      read: 4096,
      write: 4096,
      mean: 22.5,
      p99: 30,
      inFlight: 1,
    },
    history: [7, 2],
  })
})

test('rows are sorted by the largest, devices by their numbers, and either way round', t => {
  const rows = [row(10, { iops: 5, p99: 2 }), row(9, { iops: 5 }), row(2, { iops: 7, p99: 1 })]
  const ids = (key: string, reversed = false) => sorted(rows, order(key), reversed).map(({ id }) => id)
  t.deepEqual(ids('i'), [2, 9, 10])
  t.deepEqual(ids('i', true), [10, 9, 2])
  t.deepEqual(ids('d'), [2, 9, 10])
  t.deepEqual(ids('d', true), [10, 9, 2])
  t.deepEqual(ids('p'), [10, 2, 9])
})

test('a screen is never larger than the terminal, and says what is left out', t => {
  const rows = Array.from({ length: 30 }, (_, id) => row(id, { iops: 1e6 + id, history: [1, 2, 3] }))
  for (const [width, height] of [
    [100, 24],
    [40, 10],
    [10, 3],
    [1, 1],
  ] as const) {
    const lines = screen(view({ rows }), width, height)
    t.is(lines.length, height)
    // biome-ignore lint/suspicious/noControlCharactersInRegex: what marks the column takes no room
    t.true(lines.every(line => line.replaceAll(/\x1b\[\d+m/g, '').length <= width))
  }
  const lines = screen(view({ rows }), 100, 24)
  t.regex(lines[0] ?? '', /^ublk-ts top \d\d:\d\d:\d\d, every 1 s, 30 devices, 30000435 IOPS, 0B\/s read/)
  t.regex(lines[3] ?? '', /^ublkb29 +1000029 .*▃▆█$/)
  t.regex(lines[22] ?? '', /^and 11 more$/)
  t.regex(lines[23] ?? '', /^sort by d device .* q quit$/)
})

test('devices that cannot be asked are counted, and none is no failure', t => {
  const [summary, , heading] = screen(view({ silent: 2 }), 100, 24)
  t.regex(summary ?? '', /0 devices and 2 that cannot be asked/)
  t.is(heading, 'no devices')
})

test('the highest bar is the highest number', t => {
  t.is(spark([0, 50, 100], 10, true), '▁▅█')
  t.is(spark([0, 50, 100], 10, false), '_=#')
  t.is(spark([1, 2, 3, 4], 2, true), '▇█')
  t.is(spark([0, 0], 5, true), '▁▁')
  t.is(spark([], 5, true), '')
})

test('times have three digits and a unit that suits them', t => {
  for (const [micros, text] of [
    [0, '0'],
    [0.05, '50ns'],
    [0.163, '163ns'],
    [1.5, '1.5us'],
    [26.44, '26.4us'],
    [999.6, '1ms'],
    [1254, '1.25ms'],
    [31e6, '31s'],
    [5000e6, '5000s'],
  ] as const) {
    t.is(formatTime(micros), text)
  }
})
