// The guest's side of the benchmark: measures, and prints a JSON record per figure.

import { cpus, release } from 'node:os'
import { measureAttach } from './attach.js'
import { measureClones, measureLarge } from './clones.js'
import { measureLog, measureStates } from './crash.js'
import { measureCreate, measureMemory } from './create.js'
import { measureFirst } from './first.js'
import { measureGrowth } from './growth.js'
import { measureHeat } from './io.js'
import { measureDevices, measureProcesses } from './many.js'
import { measureStore } from './store.js'
import { heatsOf } from './suites.js'

const options = JSON.parse(process.argv[2])
const wanted = part => options.parts.includes(part)

emit({ kind: 'machine', kernel: release(), cpus: cpus().length, node: process.version })
if (options.suite === 'growth') {
  await measureGrowth(options, { emit, progress })
} else if (options.suite === 's3') {
  await measureStore(options, { emit, progress })
} else {
  if (wanted('attach')) await measureAttach({ emit, progress })
  if (wanted('memory')) {
    progress('memory of idle devices')
    emit({ kind: 'memory', ...(await measureMemory()) })
  }
  if (wanted('create')) {
    progress('creation')
    emit({ kind: 'create', ...(await measureCreate(options.programs.kublk.path)) })
  }
  if (wanted('many')) {
    for (const threads of ['own', 'shared']) {
      progress(`many devices of one process, ${threads} threads`)
      emit({ kind: 'many', ...(await measureDevices(threads)) })
    }
    progress('many processes with a device each')
    emit({ kind: 'many', ...(await measureProcesses()) })
  }
  if (wanted('clones')) {
    for (const record of await measureClones()) emit({ kind: 'clones', ...record })
    emit({ kind: 'large', ...(await measureLarge()) })
  }
  if (wanted('states')) emit({ kind: 'states', ...(await measureStates({ progress })) })
  if (wanted('log')) emit({ kind: 'log', ...(await measureLog({ progress })) })
  if (wanted('first')) await measureFirst(options, { emit, progress })
  if (['io', 'calls', 'allocations'].some(wanted)) {
    for (const heat of heatsOf(options)) await measureHeat(heat, options, { emit, progress })
  }
}

function emit(record) {
  process.stdout.write(`${JSON.stringify(record)}\n`)
}

function progress(what) {
  process.stderr.write(`bench: ${what}\n`)
}
