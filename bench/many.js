// What many idle devices cost: in one process, with either kind of threads, and in a process each.

import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { promisify } from 'node:util'
import { nullDisk, UblkDevice } from 'ublk-ts'
import { cli, firstLine } from './server.js'

const execute = promisify(execFile)
const DEVICES = 256
const PROCESSES = 64
const ALONE = 20

/** Many devices of this process. The first of them are made one after the other, the rest at once. */
export async function measureDevices(threads) {
  // Older drivers count all devices, newer ones those of users other than root.
  writeFileSync('/sys/module/ublk_drv/parameters/ublks_max', `${DEVICES + 8}`)
  const create = () => UblkDevice.create({ backend: nullDisk('1G'), threads, timeout: 120_000 })
  const timed = async disks => {
    const start = performance.now()
    disks.push(await create())
    return performance.now() - start
  }
  await (await create()).delete({ force: true })
  const before = memoryOf('self')
  const disks = []
  const [one_ms, busy_ms] = [[], []]
  for (let n = 0; n < ALONE; n++) one_ms.push(await timed(disks))
  const rest = DEVICES - 2 * ALONE
  const start = performance.now()
  disks.push(...(await Promise.all(Array.from({ length: rest }, create))))
  const all_ms = ((performance.now() - start) / rest) * DEVICES
  for (let n = 0; n < ALONE; n++) busy_ms.push(await timed(disks))
  const kib = (memoryOf('self') - before) / DEVICES
  const record = { name: `one process, ${threads} threads`, devices: DEVICES, one_ms, busy_ms, all_ms, kib }
  const count = threadsOf('self')
  const end = performance.now()
  await Promise.all(disks.map(disk => disk.delete({ force: true })))
  return { ...record, threads: count, delete_ms: performance.now() - end }
}

/** Processes of the command line with a device each, all started at once. */
export async function measureProcesses() {
  const start = performance.now()
  const servers = Array.from({ length: PROCESSES }, () =>
    spawn(process.execPath, [cli, 'create', '--null', '1G'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    }),
  )
  await Promise.all(servers.map(server => firstLine(server.stdout)))
  const all_ms = performance.now() - start
  const sum = of => servers.reduce((sum, { pid }) => sum + of(pid), 0)
  const record = {
    name: 'a process each',
    devices: PROCESSES,
    all_ms,
    kib: sum(memoryOf) / PROCESSES,
    threads: sum(threadsOf),
  }
  const end = performance.now()
  const exits = servers.map(server => once(server, 'exit'))
  await execute('kill', ['-INT', ...servers.map(({ pid }) => `${pid}`)])
  await Promise.all(exits)
  return { ...record, delete_ms: performance.now() - end }
}

/** KiB of memory that a process has for itself; what it shares with others counts in part. */
function memoryOf(pid) {
  if (pid === 'self') globalThis.gc()
  const [, kib] = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8').match(/^Pss:\s*(\d+)/m)
  return Number(kib)
}

function threadsOf(pid) {
  return readdirSync(`/proc/${pid}/task`).length
}
