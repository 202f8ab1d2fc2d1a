import test from 'ava'
import { progressLine } from '../../dist/cli/progress.js'

test('a line of progress says how much is done, how fast, and how long it takes', t => {
  t.is(progressLine({ done: 2 ** 29, size: 2 ** 30 }, 2 ** 29, 10), '50% of 1G, 51.2M/s, 10 s left')
  t.is(progressLine({ done: 0, size: 2 ** 30 }, 0, 10), '0% of 1G')
  t.is(progressLine({ done: 1, size: 2 ** 30 }, 1, 1), '0% of 1G, 1B/s, 298262 h left')
  t.is(progressLine({ done: 0, size: 0 }, 0, 0), '0% of 0B')
})
