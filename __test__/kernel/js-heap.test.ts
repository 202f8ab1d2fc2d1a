import { BroadcastChannel } from 'node:worker_threads'
import test from 'ava'
import { type ServedDevice, UblkDevice, worker } from 'ublk-ts'
import { CHANNEL, type Pauses, type Weight } from '../backends/weighed.js'
import { leaveNothingBehind } from '../support/devices.js'
import { sh } from '../support/program.js'
import { until } from '../support/server.js'

leaveNothingBehind(test)

const MODULE = new URL('../backends/weighed.js', import.meta.url)
const SIZE = 16 * 2 ** 20
const REQUESTS = 1_000_000
/** What compiled code and the like may add: half a byte a request, while anything that is kept has eight or more. */
const SLACK = REQUESTS / 2

/** Has fio read and write the disk with this number of requests. */
async function load(path: string, requests: number): Promise<void> {
  await sh(
    `echo 2 >"/sys/block/\${1#/dev/}/queue/nomerges" # what merges would be fewer requests
    fio --name=load --filename="$1" --size=${SIZE} --io_size=${requests * 4096} --rw=randrw --bs=4k \
      --direct=1 --ioengine=io_uring --iodepth=64 --iodepth_batch_submit=16 --iodepth_batch_complete_min=1 \
      --iodepth_batch_complete_max=16 --norandommap --output-format=terse`,
    path,
  )
}

test('a million requests leave nothing on the heap of the worker that serves them', async t => {
  const weights: Weight[] = []
  let pauses: Pauses | undefined
  const channel = new BroadcastChannel(CHANNEL)
  channel.onmessage = message => {
    const { data } = message as { data: Weight | Pauses }
    if (Array.isArray(data)) pauses = data
    else weights.push(data)
  }
  channel.unref()
  await using disk = await UblkDevice.create({ backend: worker(MODULE, { size: SIZE }) })
  const weigh = async (): Promise<Weight> => {
    const seen = weights.length
    await sh('sync "$1"', disk.path)
    await until(() => weights.length > seen, 'the backend tells the weight of its heap')
    return weights.at(-1) as Weight
  }

  await load(disk.path, REQUESTS / 5) // until everything is compiled
  const before = await weigh()
  const served = requestsOf(disk)
  await load(disk.path, REQUESTS)
  const after = await weigh()
  t.true(requestsOf(disk) - served >= REQUESTS)
  await disk.delete() // with which its worker ends
  await until(() => pauses !== undefined, 'the backend tells its pauses')

  const growth = { used: after.used - before.used, external: after.external - before.external }
  t.log(`the heap: ${before.used} bytes before, ${after.used} after; outside: ${growth.external} more`)
  t.log(`garbage: ${after.perRequest.toFixed(0)} bytes a request; ${inWords(pauses as Pauses)}`)
  t.true(growth.used < SLACK, `${growth.used} bytes more on the heap`)
  t.true(growth.external < SLACK, `${growth.external} bytes more outside the heap`)
})

function requestsOf(disk: ServedDevice): number {
  return disk.stats().reduce((sum, { read, write }) => sum + read.ops + write.ops, 0)
}

function inWords(pauses: Pauses): string {
  const sorted = pauses.toSorted((a, b) => a - b)
  const [median, longest] = [sorted[sorted.length >> 1] ?? 0, sorted.at(-1) ?? 0]
  return `${pauses.length} collections, median ${median.toFixed(2)} ms, longest ${longest.toFixed(2)} ms`
}
