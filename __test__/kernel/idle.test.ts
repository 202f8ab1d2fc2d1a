import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import test from 'ava'
import { UblkDevice } from 'ublk-ts'
import { Detached } from '../support/detached.js'
import { leaveNothingBehind } from '../support/devices.js'
import { threadsOf } from '../support/proc.js'
import { sh } from '../support/program.js'
import { Server } from '../support/server.js'

leaveNothingBehind(test)

/** How long no thread may run, and how long it may take to become idle, in milliseconds: V8 cleans up after work. */
const QUIET = 4000
const SETTLING = 90_000

/** The number of context switches, voluntary and involuntary, of each thread of a process. */
function switches(pid: number): Map<string, number> {
  const found = new Map<string, number>()
  for (const { id, name, status } of threadsOf(pid)) {
    const numbers = [...status.matchAll(/ctxt_switches:\s+(\d+)/g)].map(([, number]) => Number(number))
    // Kernel threads of io_uring, which check every five seconds whether they are to end.
    if (name.startsWith('iou-wrk-')) continue
    found.set(
      `${name} ${id}`,
      numbers.reduce((sum, number) => sum + number, 0),
    )
  }
  return found
}

/** The threads of a process that have run in that time, and how often. */
async function awake(pid: number, time: number): Promise<string[]> {
  const before = switches(pid)
  await sleep(time)
  const after = switches(pid)
  return [...after].flatMap(([name, count]) => {
    const times = count - (before.get(name) ?? 0)
    return times > 0 ? [`${name}: ${times}`] : []
  })
}

const MODULE = new URL('../backends/memory.js', import.meta.url)

/** Serves disks in every form, uses each briefly, and prints their paths. */
const PROGRAM = `
  import { UblkDevice, file, lazy, memory, nullDisk, worker } from 'ublk-ts'
  import { memoryDisk } from '${MODULE}'
  import { writeFileSync } from 'node:fs'
  const SIZE = 4 * 2 ** 20
  writeFileSync('/tmp/idle.img', Buffer.alloc(SIZE))
  const served = form => worker('${MODULE}', { bytes: new SharedArrayBuffer(SIZE), form })
  const plain = form => memoryDisk(new Uint8Array(SIZE), form)
  const disks = [
    { backend: memory(SIZE) },
    { backend: memory(SIZE), threads: 'shared' },
    { backend: memory(SIZE), poll: 100 },
    { backend: nullDisk(SIZE), transport: 'batch', threadsPerQueue: 2 },
    { backend: file('/tmp/idle.img'), observe: () => {} },
    { backend: lazy({ size: SIZE, fetch: async ({ length }) => new Uint8Array(length) }) },
    { backend: served('sync') },
    { backend: served('sync'), transport: 'per-io' },
    { backend: served('async') },
    { backend: served('async'), requestTimeout: 5000, stuckTimeout: 1000 },
    { backend: served('batch') },
    { backend: served('async batch') },
    { backend: plain('sync') },
    { backend: plain('async'), requestTimeout: 5000 },
    { backend: plain('async batch') },
  ]
  const paths = []
  for (const options of disks) paths.push((await UblkDevice.create(options)).path)
  console.log(paths.join(' '))
  process.once('SIGTERM', () => process.exit(0))
`

test('idle disks wake nobody, in whatever way they are served', async t => {
  const program = await Server.program(PROGRAM)
  const detached = await Promise.all([
    Detached.create('--mem 4M'),
    Detached.create('--mem 4M --recovery reissue --auto-restart'),
    Detached.create(
      `--worker ${new URL('../backends/in-file.js', import.meta.url).pathname} --worker-options {"path":"/tmp/idle.img","size":4194304}`,
    ),
  ])
  const paths = [...program.line.split(' '), ...detached.map(({ path }) => path)]
  await sh(
    'for disk in "$@"; do dd if=$disk of=/dev/null bs=64k count=8 iflag=direct status=none; done',
    ...paths,
  )
  const processes = new Map<string, number>([['the program', program.pid]])
  for (const disk of detached) {
    processes.set(`the server of ${disk.path}`, disk.pid)
    const parent = Number(/^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${disk.pid}/status`, 'utf8'))?.[1])
    if (parent > 1) processes.set(`the supervisor of ${disk.path}`, parent)
  }
  const end = performance.now() + SETTLING
  let busy: string[] = []
  do {
    const looks = [...processes].map(async ([name, pid]) =>
      (await awake(pid, QUIET)).map(thread => `${name}: ${thread}`),
    )
    busy = (await Promise.all(looks)).flat()
  } while (busy.length > 0 && performance.now() < end)
  t.deepEqual(busy, [])
  t.true(processes.size >= 5, 'a supervisor is among them')
  for (const { id } of detached) await (await UblkDevice.open(id)).delete({ force: true })
  await program.interrupt('SIGTERM')
})
