import { readdirSync, readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import test from 'ava'
import { memory, type QueueStats, UblkDevice, UblkError } from '../../dist/index.js'
import { Detached, leaveNoServerBehind } from '../support/detached.js'
import { fieldOf, threadsOf } from '../support/proc.js'
import { result, run, sh, shell } from '../support/program.js'

leaveNoServerBehind(test)

/** A line of what the kernel says of a process, or of one of its threads. */
/** On which CPUs the thread of each queue of a disk may run. */
function cpusOf(disk: Detached): string[] {
  const serving = threadsOf(disk.pid).filter(({ name }) => name.startsWith(`ublk${disk.id}q`))
  return serving.map(({ status }) => fieldOf(status, 'Cpus_allowed_list'))
}

function lockedBy(disk: Detached): number {
  return Number.parseInt(fieldOf(readFileSync(`/proc/${disk.pid}/status`, 'utf8'), 'VmLck'), 10) * 1024
}

const ANYWHERE = readFileSync('/sys/devices/system/cpu/online', 'utf8').trim()
const QUEUES = Math.min(2, availableParallelism())

test('a server keeps to the CPUs of its queues, and so does the one that takes over', async t => {
  const disk = await Detached.create('--mem 16M --queues 2 --recovery reissue')
  const alone = (cpus: string[]): boolean => new Set(cpus).size === QUEUES && cpus.length === QUEUES
  t.true(alone(cpusOf(disk)), cpusOf(disk).join(' '))
  if (QUEUES > 1) t.false(cpusOf(disk).includes(ANYWHERE))
  t.like(await run('upgrade', `${disk.id}`), { status: 0, stderr: '' })
  t.true(alone(cpusOf(disk)), cpusOf(disk).join(' '))
  await run('delete', `${disk.id}`)
})

test('what concerns the server is the same for the one that takes over', async t => {
  const words =
    '--mem 16M --queues 2 --depth 8 --no-affinity --poll 100 --buffers prefault,lock --recovery reissue'
  const disk = await Detached.create(words)
  const { pid } = disk
  const expected = QUEUES * 8 * 512 * 1024
  t.deepEqual(cpusOf(disk), Array(QUEUES).fill(ANYWHERE))
  t.true(lockedBy(disk) >= expected, `${lockedBy(disk)}`)
  t.like(await run('upgrade', `${disk.id}`), { status: 0, stderr: '' })
  t.not(disk.pid, pid)
  t.deepEqual(cpusOf(disk), Array(QUEUES).fill(ANYWHERE))
  t.true(lockedBy(disk) >= expected, `${lockedBy(disk)}`)
  t.like(disk.record.options, { poll: 100, affinity: false, buffers: { prefault: true, lock: true } })
  const fio = `fio --name=x --filename="$1" --direct=1 --ioengine=libaio --iodepth=4 --rw=randrw --bs=4k --size=8m \
    --io_size=4m --verify=crc32c --verify_fatal=1 --verify_state_save=0 --output-format=terse`
  t.like(await result(shell(`cd /tmp; ${fio}`, disk.path)), { status: 0, stderr: '' })
  await run('delete', `${disk.id}`)
})

for (const transport of ['per-io', 'batch'] as const) {
  test(`the threads of a queue count together: ${transport}`, async t => {
    await using disk = await UblkDevice.create({
      backend: memory('16M'),
      depth: 16,
      threadsPerQueue: 3,
      transport,
    })
    const name = `ublk${disk.id}q0t`
    const threads = threadsOf('self').map(thread => thread.name)
    t.deepEqual(threads.filter(thread => thread.startsWith(name)).sort(), [
      `${name}0`,
      `${name}1`,
      `${name}2`,
    ])
    const before = disk.stats()
    t.deepEqual(
      before.map(({ queue }) => queue),
      [0],
    )
    await sh('dd if=/dev/zero of="$1" bs=4k count=500 oflag=direct status=none', disk.path)
    const { write, inFlight } = disk.stats()[0] as QueueStats
    t.is(write.ops - (before[0]?.write.ops ?? 0), 500)
    t.is(
      write.latency.buckets.reduce((sum, [, count]) => sum + count, 0),
      write.ops,
    )
    t.is(inFlight, 0)
  })
}

test('a queue is shared by other threads when another server takes over', async t => {
  const disk = await Detached.create('--mem 16M --threads-per-queue 2 --recovery reissue')
  t.is(cpusOf(disk).length, 2)
  t.like(await run('upgrade', `${disk.id}`), { status: 0, stderr: '' })
  t.is(cpusOf(disk).length, 2)
  await run('delete', `${disk.id}`)
})

test('a disk has its memory before it is written', async t => {
  // The most that one mapping of this process has in memory, in MiB: all of them also change with V8's heap.
  const resident = (): number => {
    const lines = readFileSync('/proc/self/smaps', 'utf8').matchAll(/^Rss: +(\d+) kB$/gm)
    return Math.max(...Array.from(lines, ([, size]) => Number(size) / 1024))
  }
  t.true(resident() < 60, `${resident()} MiB`)
  const backend = memory('64M', { pages: { prefault: true } })
  await using disk = await UblkDevice.create({ backend, depth: 8, maxIo: '64K' })
  t.true(resident() >= 64, `${resident()} MiB`)
  await sh('head -c 1M /dev/urandom | dd of="$1" bs=64k iflag=fullblock oflag=direct status=none', disk.path)
})

test('what the system cannot give is refused in one line', async t => {
  const wrong = await run('create', '--mem', '16M', '--buffers', 'lock,large')
  t.is(wrong.status, 2)
  t.regex(wrong.stderr, /of prefault, huge-pages and lock/)
  t.like(await run('create', '--null', '16M', '--mem-pages', 'lock'), {
    status: 2,
    stderr: 'ublk-ts: --mem-pages is only for --mem\n',
  })
  if (readdirSync('/sys/kernel/mm').includes('transparent_hugepage')) return
  const refused = UblkDevice.create({ backend: memory('16M'), buffers: { hugePages: true } })
  const error = await t.throwsAsync(refused, { instanceOf: UblkError })
  t.like(error, { kind: 'unsupported' })
})
