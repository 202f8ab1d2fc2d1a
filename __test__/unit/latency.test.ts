import test from 'ava'
import type { LatencyStats } from '../../dist/index.js'
import { latencyOf, since, sumOf } from '../../dist/latency.js'

const none: LatencyStats = latencyOf([], 0, 0)

test('percentiles are the bounds of the buckets in which they lie, and never above the maximum', t => {
  const latency = latencyOf(
    [
      [10, 50],
      [20, 40],
      [30, 9],
      [40, 1],
    ],
    14,
    37.5,
  )
  t.like(latency, { count: 100, mean: 14, p50: 10, p90: 20, p99: 30, p999: 37.5, max: 37.5 })
})

test('without requests every figure is 0', t => {
  t.deepEqual(none, { count: 0, mean: 0, p50: 0, p90: 0, p99: 0, p999: 0, max: 0, buckets: [] })
  t.deepEqual(sumOf([]), none)
  t.deepEqual(sumOf([none, none]), none)
  t.deepEqual(since(none, none), none)
})

test('several histograms make one', t => {
  const one = latencyOf([[10, 2]], 9, 9.5)
  const two = latencyOf(
    [
      [5, 1],
      [10, 1],
      [80, 1],
    ],
    30,
    79,
  )
  t.deepEqual(sumOf([one, none, two]), {
    ...{ count: 5, mean: (18 + 90) / 5, p50: 10, p90: 79, p99: 79, p999: 79, max: 79 },
    buckets: [
      [5, 1],
      [10, 3],
      [80, 1],
    ],
  })
})

test('what came since an earlier reading has figures of its own', t => {
  const before = latencyOf(
    [
      [10, 2],
      [500, 1],
    ],
    (2 * 8 + 480) / 3,
    480,
  )
  const quick = sumOf([before, latencyOf([[20, 4]], 15, 19)])
  t.like(since(quick, before), { count: 4, p50: 20, max: 20, buckets: [[20, 4]] })
  t.true(Math.abs(since(quick, before).mean - 15) < 1e-9)
  const slow = sumOf([before, latencyOf([[1000, 1]], 900, 900)])
  t.like(since(slow, before), { count: 1, max: 900, buckets: [[1000, 1]] })
  t.deepEqual(since(before, before), none)
})
