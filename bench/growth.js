// How cost grows with what is asked of a disk, ours and kublk's in turns.

import { readFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { runFio } from './fio.js'
import { countersOf } from './io.js'
import { start } from './targets.js'

const DISKS = ['null', 'kublk-null']
const DEPTHS = [1, 8, 64, 256]
const QUEUES = [1, 2, 4]
/** Depth, and the size of the requests in KiB. */
const BUFFERS = [16, 64, 128].flatMap(depth => [64, 512, 1024].map(kib => ({ depth, kib })))

export async function measureGrowth(options, tools) {
  const parts = { cpu: measureCpu, memory: measureMemory, queues: measureQueues }
  for (const part of options.parts) await parts[part](options, tools)
}

/** Has all disks of a shape do something, one after the other; each is there only meanwhile. */
async function inTurns(round, { programs }, shape, run) {
  for (const name of round % 2 === 1 ? DISKS : DISKS.toReversed()) {
    const disk = await start(name, { programs, shape })
    try {
      await run(disk)
    } finally {
      await disk.stop()
    }
  }
}

function limitsOf({ seconds }) {
  return ['--time_based', `--runtime=${Math.round(seconds * 1000)}ms`, '--ramp_time=200ms']
}

/** The processor time of a request at growing iodepth, one queue. */
async function measureCpu(options, { emit, progress }) {
  for (let round = 1; round <= options.rounds; round++) {
    progress(`processor time: round ${round} of ${options.rounds}`)
    await inTurns(round, options, { depth: Math.max(...DEPTHS) }, async disk => {
      for (const depth of DEPTHS) {
        const before = countersOf(disk)
        const { iops } = await runFio(disk, `randread-4k-${depth}`, limitsOf(options), options.seconds)
        const after = countersOf(disk)
        const [cpu, requests] = ['cpu', 'requests'].map(key => after[key] - before[key])
        emit({ kind: 'cpu', target: disk.name, depth, round, cpu, requests, iops })
      }
    })
  }
}

/** The memory of a server whose buffers have all been used: for depth times the size of requests. */
async function measureMemory(options, { emit, progress }) {
  for (const { depth, kib } of BUFFERS) {
    progress(`memory: ${depth} requests of ${kib} KiB`)
    await inTurns(1, options, { depth, maxIo: `${kib}K` }, async disk => {
      const idle_kib = memoryOf(disk.pid)
      await runFio(disk, `write-${kib}k-${depth}`, limitsOf(options), options.seconds)
      const used_kib = memoryOf(disk.pid)
      emit({ kind: 'buffers', target: disk.name, depth, kib, idle_kib, used_kib })
    })
  }
}

/** IOPS with growing queues, under the same load: a job a CPU. */
async function measureQueues(options, { emit, progress }) {
  const count = cpus().length
  const jobs = [`--numjobs=${count}`, '--group_reporting', `--cpus_allowed=0-${count - 1}`]
  const load = [...limitsOf(options), ...jobs, '--cpus_allowed_policy=split']
  for (let round = 1; round <= options.rounds; round++) {
    for (const queues of QUEUES) {
      progress(`queues: ${queues}, round ${round} of ${options.rounds}`)
      await inTurns(round, options, { queues }, async disk => {
        const { iops } = await runFio(disk, 'randread-4k-32', load, options.seconds)
        emit({ kind: 'queues', target: disk.name, queues, round, iops })
      })
    }
  }
}

/** KiB of memory that a process has for itself; what it shares with others counts in part. */
function memoryOf(pid) {
  return Number(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8').match(/^Pss:\s*(\d+)/m)[1])
}
