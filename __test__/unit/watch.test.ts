import test from 'ava'
import { UblkError } from 'ublk-ts'
import { intervalOf, totalOf } from '../../dist/watch/interval.js'
import { openMetrics } from '../../dist/watch/openmetrics.js'
import { parseOpenMetrics } from '../support/openmetrics.js'
import { opOf, queueOf, readingOf } from '../support/readings.js'

test('an interval has what was counted in it', t => {
  const before = readingOf(0, 1000, [queueOf(0, { read: opOf(10, 20), turns: 5 }), queueOf(1)])
  const now = readingOf(0, 3000, [
    queueOf(0, { read: opOf(10, 20, 20, 30), inFlight: 3, turns: 9 }),
    queueOf(1, { write: opOf(5) }),
  ])
  const { seconds, queues } = intervalOf(before, now)
  t.is(seconds, 2)
  t.like(queues[0], { queue: 0, inFlight: 3, turns: 4 })
  t.like(queues[0]?.read, { ops: 2, bytes: 8192, errors: 0 })
  t.like(queues[0]?.read.latency, { count: 2, p50: 20, max: 30 })
  t.is(queues[1]?.write.ops, 1)
  const { read, write, inFlight } = totalOf(queues)
  t.deepEqual([read.ops, write.ops, inFlight], [2, 1, 3])
})

test('nothing is counted in an interval that has no beginning, or whose counters began anew', t => {
  const much = readingOf(0, 3000, [queueOf(0, { read: opOf(1, 2, 3), turns: 3 })])
  const little = readingOf(0, 4000, [queueOf(0, { read: opOf(1), turns: 2 })])
  const others = readingOf(0, 2000, [queueOf(0), queueOf(1)])
  for (const [before, now] of [
    [undefined, much],
    [much, little],
    [others, much],
  ] as const) {
    t.like(totalOf(intervalOf(before, now).queues).read, { ops: 0, bytes: 0, latency: { count: 0, max: 0 } })
  }
})

test('the OpenMetrics text is well formed and says what was counted', async t => {
  const trouble = new UblkError('not-found', 'nobody can be asked')
  const text = await openMetrics([
    readingOf(0, 0, [
      queueOf(0, { read: opOf(0.16, 3, 3, 700), inFlight: 2 }),
      queueOf(1, { writeZeroes: opOf(20e6) }),
    ]),
    readingOf(12, 0, [], { trouble }),
    readingOf(13, 0, [], {
      layers: [
        { path: '/a.cow.one', bytes: 4096, written: false },
        { path: '/a.cow', bytes: 8192, written: true },
      ],
      faults: {
        rules: [
          { rule: { op: 'read', errno: 'EIO' }, ofProfile: false, considered: 9, applied: 4 },
          { rule: { op: 'write', errno: 'EIO' }, ofProfile: false, considered: 9, applied: 0 },
        ],
        seed: 0,
        hanging: 3,
      },
    }),
  ])
  const families = parseOpenMetrics(text)
  const value = (family: string, name: string, labels: Record<string, string>) =>
    families
      .get(family)
      ?.samples.filter(
        sample => sample.name === name && Object.entries(labels).every(([k, v]) => sample.labels[k] === v),
      )
      .map(sample => sample.value)
  const reads = { device: 'ublkb0', queue: '0', op: 'read' }
  t.deepEqual(value('ublk_requests', 'ublk_requests_total', reads), [4])
  t.deepEqual(value('ublk_bytes', 'ublk_bytes_total', reads), [16384])
  t.deepEqual(value('ublk_errors', 'ublk_errors_total', reads), [0])
  t.deepEqual(value('ublk_in_flight', 'ublk_in_flight', { device: 'ublkb0' }), [2, 0])
  t.deepEqual(value('ublk_up', 'ublk_up', {}), [1, 0, 1])
  t.deepEqual(value('ublk_layer_bytes', 'ublk_layer_bytes', { device: 'ublkb13', written: 'false' }), [4096])
  t.deepEqual(value('ublk_layer_bytes', 'ublk_layer_bytes', { layer: '/a.cow' }), [8192])
  t.deepEqual(value('ublk_faults_applied', 'ublk_faults_applied_total', { device: 'ublkb13' }), [4, 0])
  t.deepEqual(value('ublk_faults_applied', 'ublk_faults_applied_total', { rule: '1' }), [0])
  t.deepEqual(value('ublk_faults_hanging', 'ublk_faults_hanging', {}), [3])
  t.deepEqual(value('ublk_device_info', 'ublk_device_info', { path: '/dev/ublkb0', state: 'live' }), [1])
  const durations = 'ublk_request_duration_seconds'
  t.is(families.get(durations)?.type, 'histogram')
  const below = (le: string, labels = reads) => value(durations, `${durations}_bucket`, { ...labels, le })
  t.deepEqual(
    ['1e-7', '2e-7', '0.000002', '0.000005', '0.0005', '0.001', '10.0', '+Inf'].map(
      le => below(le)?.[0] ?? below(le.replace('.0', ''))?.[0],
    ),
    [0, 1, 1, 3, 3, 4, 4, 4],
  )
  t.deepEqual(below('+Inf', { device: 'ublkb0', queue: '1', op: 'write_zeroes' }), [1])
  t.deepEqual(value(durations, `${durations}_count`, reads), [4])
  t.true(Math.abs((value(durations, `${durations}_sum`, reads)?.[0] ?? 0) - 706.16e-6) < 1e-9)
})

test('without devices the OpenMetrics text is well formed too', async t => {
  t.true(parseOpenMetrics(await openMetrics([])).size > 0)
})
