// The disks of a heat under load, in turns.

import { readFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { countAllocations, prepareCounting } from './allocations.js'
import { countCalls } from './calls.js'
import { makeFiles } from './files.js'
import { parseWorkload, runFio } from './fio.js'
import { useAllMemory } from './memory.js'
import { Absent, readCpu, readSleeps } from './server.js'
import { SUITES } from './suites.js'
import { isKeeping, start } from './targets.js'

export async function measureHeat(heat, options, { emit, progress }) {
  if (heat.keeps && process.env.UBLK_TS_VM === 'uml') {
    progress('using all memory once')
    await useAllMemory()
  }
  progress(`setting up the disks: ${heat.name}`)
  const files = makeFiles()
  const field = new Field(heat, options, files, absent =>
    emit({ kind: 'absent', heat: heat.name, ...absent }),
  )
  const tell = record => emit({ heat: heat.name, ...record })
  try {
    for (const name of heat.disks) await field.enter(name)
    if (options.parts.includes('io')) await measureIo(field, options, { emit: tell, progress })
    if (options.parts.includes('calls')) await measureCalls(field, { emit: tell, progress })
    if (options.parts.includes('allocations')) await measureAllocations(field, { emit: tell, progress })
  } finally {
    for (const name of heat.disks) await field.leave(name)
    await files.remove()
  }
}

/** A round of disks that keep all that is written: this much, which the smallest log has room for. */
const KEPT = ['--size=256m', '--io_size=192m']

/** The disks that are there. One that fails in a workload is made anew, and spared that one. */
class Field {
  #disks = new Map()
  #failed = new Set()

  constructor(heat, options, files, onAbsent) {
    this.heat = heat
    this.options = options
    this.files = files
    this.onAbsent = onAbsent
  }

  async enter(name) {
    await this.attempt({ target: name }, async () => {
      this.#disks.set(name, await start(name, { ...this.options, fileOn: this.files.fileOn }))
    })
  }

  async leave(name) {
    const disk = this.#disks.get(name)
    this.#disks.delete(name)
    await disk?.stop()
  }

  async renew(name) {
    await this.leave(name)
    await this.enter(name)
  }

  async renewed(name) {
    await this.renew(name)
    const disk = this.#disks.get(name)
    if (!disk) throw new Absent('it was not made anew')
    return disk
  }

  /** Has the disks that know a workload do something with it. */
  async each(part, workload, backwards, run) {
    const order = backwards ? this.heat.disks.toReversed() : this.heat.disks
    for (const name of order) {
      const disk = this.#disks.get(name)
      const knows = this.heat.measures(name, parseWorkload(workload))
      if (!disk || !knows || this.#failed.has(`${name} ${workload}`)) continue
      const done = await this.attempt({ target: name, part, workload }, () => run(disk))
      if (done) continue
      this.#failed.add(`${name} ${workload}`)
      await this.renew(name)
    }
  }

  /** The disks that have a server. */
  get served() {
    return this.heat.disks.filter(name => this.#disks.get(name)?.pid !== undefined)
  }

  /** The CPU of a pinned run: that to which the first server that does so has bound itself. */
  get cpu() {
    return [...this.#disks.values()].find(({ cpu }) => cpu)?.cpu ?? '0'
  }

  /** Whether it could be done; if a failure is allowed, it is reported. */
  async attempt(what, run) {
    try {
      await run()
      return true
    } catch (error) {
      if (!SUITES[this.options.suite].tolerant) throw error
      this.onAbsent({ ...what, why: error.message.split('\n')[0] })
      return false
    }
  }
}

async function measureIo(field, options, { emit, progress }) {
  const limits = field.heat.keeps
    ? KEPT
    : ['--time_based', `--runtime=${Math.round(options.seconds * 1000)}ms`, '--ramp_time=200ms']
  const everywhere = `0-${cpus().length - 1}`
  const large = field.heat.workloads.find(name => parseWorkload(name).block.endsWith('m'))
  if (large) await warmUp(field, large, progress)
  for (let round = 1; round <= options.rounds; round++) {
    progress(`${field.heat.name}: round ${round} of ${options.rounds}`)
    for (const workload of field.heat.workloads) {
      await field.each('io', workload, round % 2 === 0, async former => {
        const disk = isKeeping(former.name) ? await field.renewed(former.name) : former
        const where = parseWorkload(workload).pinned ? (disk.cpu ?? field.cpu) : everywhere
        await disk.place(where)
        const before = countersOf(disk)
        const figures = await runFio(disk, workload, [...limits, `--cpus_allowed=${where}`], options.seconds)
        const after = countersOf(disk)
        const each = key => (after[key] - before[key]) / (after.requests - before.requests)
        const cpu_us = disk.pid === undefined ? undefined : each('cpu')
        emit({
          kind: 'io',
          target: disk.name,
          workload,
          round,
          sleeps: each('sleeps'),
          cpu_us,
          ...figures,
        })
      })
    }
  }
}

/** Has the servers use all of their buffers once: the first touch of a page takes long, and is no request's own cost. */
async function warmUp(field, workload, progress) {
  progress(`${field.heat.name}: warming up`)
  await field.each('io', workload, false, disk => runFio(disk, workload, ['--io_size=1g'], 60))
}

async function measureCalls(field, { emit, progress }) {
  for (const workload of field.heat.workloads.filter(name => !parseWorkload(name).pinned)) {
    progress(`${field.heat.name}: system calls, ${workload}`)
    await field.each('calls', workload, false, async disk => {
      if (disk.pid === undefined) return
      emit({ kind: 'calls', target: disk.name, workload, ...(await countCalls(disk, workload)) })
      if (disk.onceTraced) await field.renew(disk.name)
    })
  }
}

/** Of each disk another one, which is there for this only. */
async function measureAllocations(field, { emit, progress }) {
  progress(`${field.heat.name}: allocations`)
  await prepareCounting()
  for (const name of field.served) {
    await field.attempt({ target: name, part: 'allocations' }, async () => {
      const counts = await countAllocations(name, { ...field.options, fileOn: field.files.fileOn })
      for (const count of counts) emit({ kind: 'allocations', target: name, ...count })
    })
  }
}

/** Requests that a disk has answered, and what its server has spent on that. */
export function countersOf(disk) {
  const stat = readFileSync(`/sys/block/${disk.path.replace('/dev/', '')}/stat`, 'utf8')
    .trim()
    .split(/\s+/)
  return {
    requests: Number(stat[0]) + Number(stat[4]),
    sleeps: readSleeps(disk.pid),
    cpu: readCpu(disk.pid),
  }
}
