// processors: 1 and 2
import { execFileSync } from 'node:child_process'
import {
  type Backend,
  type LatencyStats,
  memory,
  nullDisk,
  type QueueStats,
  type TraceRecord,
  UblkDevice,
  UblkError,
  worker,
} from 'ublk-ts'
import { memoryDisk } from '../backends/memory.js'
import { leaveNothingBehind } from '../support/devices.js'
import { onTwo, test } from '../support/processors.js'
import { sh } from '../support/program.js'

leaveNothingBehind(test)

const MIB = 2 ** 20
const MODULE = new URL('../backends/memory.js', import.meta.url)
const forms: [name: string, queues: number, () => Backend, threads?: 'own' | 'shared'][] = [
  ['native', 2, () => memory('16M')],
  ['native on shared threads', 2, () => memory('16M'), 'shared'],
  ['workers', 2, () => worker(MODULE, { bytes: new SharedArrayBuffer(16 * MIB), form: 'sync' })],
  ['an event loop', 1, () => memoryDisk(new Uint8Array(16 * MIB), 'async')],
]

/** Writes 4 KiB this many times behind the first MiB, each as a request of its own, and waits for them. */
const write = async (path: string, count: number) =>
  await sh(
    'dd if=/dev/zero of="$1" bs=4k count="$2" seek=256 oflag=direct conv=notrunc status=none',
    path,
    `${count}`,
  )

function sane(t: { true: (is: boolean, why?: string) => void }, latency: LatencyStats): void {
  const { count, mean, p50, p90, p99, p999, max, buckets } = latency
  t.true(0 < p50 && p50 <= p90 && p90 <= p99 && p99 <= p999 && p999 <= max, JSON.stringify(latency))
  t.true(0 < mean && mean <= max)
  const bounds = buckets.map(([bound]) => bound)
  t.true(bounds.every((bound, at) => at === 0 || bound > (bounds[at - 1] ?? 0)))
  t.true(buckets.reduce((sum, [, number]) => sum + number, 0) === count)
}

for (const [name, queues, backend, threads = 'own'] of forms) {
  ;(queues > 1 ? onTwo : test)(`the latency of every request is counted: ${name}`, async t => {
    await using disk = await UblkDevice.create({ backend: backend(), queues, threads })
    await write(disk.path, 40)
    const stats = disk.stats()
    for (const { read, write, flush } of stats) {
      for (const { ops, latency } of [read, write, flush]) {
        t.is(latency.count, ops)
        if (ops > 0) sane(t, latency)
        else t.deepEqual(latency, { count: 0, mean: 0, p50: 0, p90: 0, p99: 0, p999: 0, max: 0, buckets: [] })
      }
    }
    t.is(
      stats.reduce((sum, queue) => sum + queue.write.latency.count, 0),
      40,
    )
    t.deepEqual(JSON.parse(JSON.stringify(stats)), stats, 'it is plain data')
  })

  test(`a trace tells each request of a disk: ${name}`, async t => {
    await using disk = await UblkDevice.create({ backend: backend(), threads })
    await write(disk.path, 1)
    const told: TraceRecord[] = []
    const end = new AbortController()
    const from = Date.now()
    const traced = disk.trace(
      (records, dropped) => {
        told.push(...records)
        t.is(dropped, 0)
      },
      { signal: end.signal },
    )
    await write(disk.path, 3)
    end.abort()
    await traced
    const to = Date.now()
    await write(disk.path, 1)
    t.deepEqual(
      told
        .filter(({ op }) => op === 'write')
        .map(({ queue, offset, length, fua, done, error }) => ({ queue, offset, length, fua, done, error })),
      [0, 1, 2].map(at => ({
        queue: 0,
        offset: MIB + at * 4096,
        length: 4096,
        fua: false,
        done: 4096,
        error: null,
      })),
    )
    // The two clocks need not agree to the millisecond.
    t.true(told.every(({ time, latency }) => time > from - 10 && time < to + 10 && latency > 0))
    const times = told.map(({ time }) => time)
    t.deepEqual(
      times,
      times.toSorted((a, b) => a - b),
    )
  })
}

test('a request that takes its time takes it in the counters and in the trace, and its error is named', async t => {
  let [from, until] = [0, 0]
  const backend: Backend = {
    size: '16M',
    read: (_, into) => void into.fill(0),
    write: async ({ offset }) => {
      if (offset !== MIB) return
      from = performance.now()
      await new Promise(resolve => setTimeout(resolve, 20))
      until = performance.now()
      throw Object.assign(new Error('full'), { code: 'ENOSPC' })
    },
  }
  await using disk = await UblkDevice.create({ backend })
  disk.on('error', () => {})
  const end = new AbortController()
  const told: TraceRecord[] = []
  const traced = disk.trace(records => void told.push(...records), { signal: end.signal })
  const before = performance.now()
  await t.throwsAsync(write(disk.path, 1))
  const after = performance.now()
  end.abort()
  await traced
  const [record] = told.filter(({ op }) => op === 'write')
  t.like(record, { offset: MIB, done: 0, error: 'ENOSPC' })
  const { errors, latency } = (disk.stats()[0] as QueueStats).write
  t.is(errors, 1)
  t.is(latency.count, 1)
  for (const micros of [latency.max, latency.mean, record?.latency ?? 0]) {
    t.true(micros >= (until - from) * 990, `${micros} µs are less than ${until - from} ms`)
    t.true(micros <= (after - before) * 1010, `${micros} µs are more than ${after - before} ms`)
  }
})

test('a trace ends with its device', async t => {
  const disk = await UblkDevice.create({ backend: memory('16M') })
  let told = 0
  const traced = disk.trace(records => {
    told += records.length
  })
  await write(disk.path, 5)
  await disk.delete()
  await traced
  t.true(told >= 5)
  t.is(
    (
      await t.throwsAsync(
        disk.trace(() => {}),
        { instanceOf: UblkError },
      )
    )?.kind,
    'closed',
  )
})

test('what a listener throws ends its trace, and nothing else', async t => {
  await using disk = await UblkDevice.create({ backend: memory('16M') })
  const reason = new Error('enough')
  let calls = 0
  const traced = disk.trace(() => {
    calls++
    throw reason
  })
  const failed = t.throwsAsync(traced, { is: reason })
  await write(disk.path, 5)
  await failed
  await write(disk.path, 5)
  t.is(calls, 1)
})

test('an end that was signalled before is an end', async t => {
  await using disk = await UblkDevice.create({ backend: memory('16M') })
  await t.notThrowsAsync(disk.trace(() => t.fail(), { signal: AbortSignal.abort() }))
  await write(disk.path, 1)
})

test('a disk can be traced eight times, and each tells all', async t => {
  await using disk = await UblkDevice.create({ backend: memory('16M') })
  const end = new AbortController()
  const told = Array.from({ length: 8 }, () => 0)
  const traces = told.map((_, at) =>
    disk.trace(
      records => {
        told[at] = (told[at] ?? 0) + records.filter(({ op }) => op === 'write').length
      },
      { signal: end.signal },
    ),
  )
  const ninth = await t.throwsAsync(
    disk.trace(() => {}),
    { instanceOf: UblkError },
  )
  t.is(ninth?.kind, 'limit')
  await write(disk.path, 6)
  end.abort()
  await Promise.all(traces)
  t.deepEqual(told, [6, 6, 6, 6, 6, 6, 6, 6])
})

test('what is too much for a listener is lost, and it is told how much that is', async t => {
  await using disk = await UblkDevice.create({ backend: nullDisk('1G') })
  const reads = () => disk.stats().reduce((sum, queue) => sum + queue.read.ops, 0)
  const end = new AbortController()
  let [told, lost] = [0, 0]
  const before = reads()
  const traced = disk.trace(
    (records, dropped) => {
      told += records.length
      lost += dropped
    },
    { signal: end.signal },
  )
  // No turn of this thread's event loop meanwhile.
  const fio =
    '--name=load --rw=randread --bs=4k --iodepth=64 --iodepth_batch=16 --ioengine=io_uring --direct=1 --number_ios=120000'
  execFileSync('fio', [...fio.split(' '), '--size=1G', `--filename=${disk.path}`])
  end.abort()
  await traced
  t.true(lost > 0)
  t.is(told + lost, reads() - before)
})
