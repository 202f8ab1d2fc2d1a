// The guest's side of the benchmark: measures, and prints a JSON record per figure.

import { readFileSync } from 'node:fs'
import { cpus, release } from 'node:os'
import { countCalls } from './calls.js'
import { measureCreate, measureMemory } from './create.js'
import { parseWorkload, runFio } from './fio.js'
import { measureDevices, measureProcesses } from './many.js'
import { disksOf } from './suites.js'
import { readSleeps, start } from './targets.js'

const options = JSON.parse(process.argv[2])
const wanted = part => options.parts.includes(part)

emit({ kind: 'machine', kernel: release(), cpus: cpus().length, node: process.version })
if (wanted('memory')) {
  progress('memory of idle devices')
  emit({ kind: 'memory', ...(await measureMemory()) })
}
if (wanted('create')) {
  progress('creation')
  emit({ kind: 'create', ...(await measureCreate(options.kublk)) })
}
if (wanted('many')) {
  for (const threads of ['own', 'shared']) {
    progress(`many devices of one process, ${threads} threads`)
    emit({ kind: 'many', ...(await measureDevices(threads)) })
  }
  progress('many processes with a device each')
  emit({ kind: 'many', ...(await measureProcesses()) })
}
if (wanted('io') || wanted('calls')) {
  progress('setting up the disks')
  const disks = []
  try {
    for (const name of disksOf(options.suite, options.targets)) disks.push(await start(name, options.kublk))
    if (wanted('io')) await measureIo(disks)
    if (wanted('calls')) await measureCalls(disks)
  } finally {
    for (const disk of disks) await disk.stop()
  }
}

async function measureIo(disks) {
  // Where a disk's server has bound itself to a CPU, it is that one.
  const cpu = disks.find(disk => disk.cpu)?.cpu ?? '0'
  const limits = ['--time_based', `--runtime=${Math.round(options.seconds * 1000)}ms`, '--ramp_time=200ms']
  const everywhere = `0-${cpus().length - 1}`
  for (let round = 1; round <= options.rounds; round++) {
    progress(`round ${round} of ${options.rounds}`)
    const order = round % 2 === 1 ? disks : disks.toReversed()
    for (const workload of options.workloads) {
      const where = parseWorkload(workload).pinned ? cpu : everywhere
      for (const disk of order.filter(({ measures }) => measures(parseWorkload(workload)))) {
        await disk.place(where)
        const before = countersOf(disk)
        const figures = await runFio(disk.path, workload, [...limits, `--cpus_allowed=${where}`])
        const after = countersOf(disk)
        const sleeps = (after.sleeps - before.sleeps) / (after.requests - before.requests)
        emit({ kind: 'io', target: disk.name, workload, round, sleeps, ...figures })
      }
    }
  }
}

async function measureCalls(disks) {
  for (const workload of options.workloads.filter(name => !parseWorkload(name).pinned)) {
    progress(`system calls, ${workload}`)
    const served = disks.filter(({ pid, measures }) => pid !== undefined && measures(parseWorkload(workload)))
    for (const disk of served) {
      emit({ kind: 'calls', target: disk.name, workload, ...(await countCalls(disk, workload)) })
    }
  }
}

function countersOf(disk) {
  const stat = readFileSync(`/sys/block/${disk.path.replace('/dev/', '')}/stat`, 'utf8')
    .trim()
    .split(/\s+/)
  return { requests: Number(stat[0]) + Number(stat[4]), sleeps: readSleeps(disk.pid) }
}

function emit(record) {
  process.stdout.write(`${JSON.stringify(record)}\n`)
}

function progress(what) {
  process.stderr.write(`bench: ${what}\n`)
}
