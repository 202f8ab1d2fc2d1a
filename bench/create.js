// What a device costs: the time to make one, and the memory of an idle one.

import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { nullDisk, UblkDevice } from 'ublk-ts'
import { firstLine } from './server.js'

const execute = promisify(execFile)
const TIMES = 20
const DEVICES = 64

/**
 * How long `UblkDevice.create()` takes until its disk can be used, and how long the kernel takes for the control commands
 * of that, in turns; milliseconds.
 */
export async function measureCreate(kublk) {
  const [create_ms, commands_ms] = [[], []]
  for (let time = 0; time <= TIMES; time++) {
    const [create, commands] = [await timeCreate(), await timeCommands(kublk)]
    if (time === 0) continue // it warms up
    create_ms.push(create)
    commands_ms.push(commands)
  }
  return { create_ms, commands_ms }
}

async function timeCreate() {
  const start = performance.now()
  const disk = await UblkDevice.create({ backend: nullDisk('512M') })
  const time = performance.now() - start
  await disk.delete({ force: true })
  return time
}

/**
 * Taken from kublk, whose main thread issues the commands one by one and does nothing else in these calls. In the
 * foreground that is the only thread that strace sees.
 */
async function timeCommands(kublk) {
  const file = join(tmpdir(), 'commands')
  const options = ['-T', '-e', 'trace=io_uring_enter', '-e', 'signal=none', '-o', file]
  const tracer = spawn(
    'strace',
    [...options, kublk, 'add', '-t', 'null', '-q', '1', '-d', '128', '-n', '0', '--foreground'],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  )
  const exit = once(tracer, 'exit')
  await firstLine(tracer.stdout) // it prints the device once it is live
  const trace = readFileSync(file, 'utf8')
  await execute(kublk, ['del', '-n', '0'])
  await exit
  return Array.from(trace.matchAll(/<([\d.]+)>$/gm), ([, seconds]) => Number(seconds) * 1000).reduce(
    (a, b) => a + b,
    0,
  )
}

/** The resident memory of this process without devices and with many idle ones, in bytes. */
export async function measureMemory() {
  const warm = await UblkDevice.create({ backend: nullDisk('512M') })
  await warm.delete({ force: true })
  const before = residentBytes()
  const disks = []
  for (let n = 0; n < DEVICES; n++) disks.push(await UblkDevice.create({ backend: nullDisk('512M') }))
  const after = residentBytes()
  await Promise.all(disks.map(disk => disk.delete({ force: true })))
  return { devices: DEVICES, before, after }
}

function residentBytes() {
  globalThis.gc()
  return process.memoryUsage.rss()
}
