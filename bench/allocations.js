// What the servers allocate: their calls of malloc and its kin, counted by a library that they are started with. A server
// that is linked statically has none of it, and is not counted; nor is what JavaScript makes in its own heap.

import { execFile } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { runFio } from './fio.js'
import { Absent } from './server.js'
import { start } from './targets.js'

const execute = promisify(execFile)
// V8 compiles, and allocates for that, until it knows the code.
const [WARM, REQUESTS] = [50_000, 20_000]
const WORKLOADS = ['randread-4k-64', 'randwrite-4k-64']
const library = join(tmpdir(), 'allocations.so')
const counter = join(tmpdir(), 'allocations')

/** Builds the library. */
export async function prepareCounting() {
  const source = join(import.meta.dirname, 'allocations.c')
  await execute('gcc', ['-O2', '-shared', '-fPIC', '-o', library, source])
}

/** The allocations of a disk's server during some thousand requests of each kind. */
export async function countAllocations(name, options) {
  writeFileSync(counter, Buffer.alloc(8))
  const disk = await start(name, { ...options, env: { LD_PRELOAD: library, ALLOCATIONS: counter } })
  try {
    if (readCount() === 0) throw new Absent('its server is linked statically')
    const counts = []
    for (const workload of WORKLOADS) {
      await runFio(disk, workload, [`--number_ios=${WARM}`])
      const before = readCount()
      const { requests } = await runFio(disk, workload, [`--number_ios=${REQUESTS}`])
      counts.push({ workload, requests, allocations: readCount() - before })
    }
    return counts
  } finally {
    await disk.stop()
  }
}

function readCount() {
  return Number(readFileSync(counter).readBigUInt64LE())
}
