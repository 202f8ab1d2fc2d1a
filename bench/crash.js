// What it takes to look at states after a power cut, and what memory the recorded takes up.

import { execFile } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, readlinkSync, rmSync, statSync } from 'node:fs'
import { promisify } from 'node:util'
import { powercut, UblkDevice } from 'ublk-ts'

const execute = promisify(execFile)
const sh = (script, ...args) => execute('sh', ['-ec', script, 'sh', ...args])

const DIR = '/tmp/bench-crash'
/** States that are made disks of, and those that are only found. */
const DISKS = 60
const FOUND = 2000
/** How many disks there are at once in the last part. */
const AT_ONCE = 8
/** Bytes that are written for the size of a log. */
const WRITTEN = 2 ** 30

/** The states of a disk of 64 MiB with ext4, on which 40 files were written and synced. */
export async function measureStates({ progress }) {
  progress('states: recording')
  mkdirSync(DIR, { recursive: true })
  const disk = await UblkDevice.create({ backend: powercut({ size: '64M' }) })
  await sh('mkfs.ext4 -q -E lazy_itable_init=0 "$1"; mount "$1" "$2"', disk.path, DIR)
  disk.mark('0')
  await sh(
    'cd "$1"; for n in $(seq 40); do head -c 20000 /dev/urandom >"$n"; sync "$n"; done; cd /; umount "$1"',
    DIR,
  )
  const states = async (budget, use, end = () => {}) => {
    const [start, before] = [performance.now(), process.cpuUsage()]
    let number = 0
    for await (const state of disk.crashStates({ from: '0', budget })) await use(state, number++)
    await end()
    const { user, system } = process.cpuUsage(before)
    return { number, ms: performance.now() - start, cpu_ms: (user + system) / 1000 }
  }
  const record = { disk_ms: [], mount_ms: [], delete_ms: [], cpu_ms: [] }
  try {
    progress('states: as disks')
    await states(DISKS, async (state, number) => {
      const [crashed, time, cpu] = await timed(() => state.disk())
      const [, mount] = await timed(() => sh('mount "$1" "$2"', crashed.path, DIR))
      await sh('umount "$1"', DIR)
      const [, end] = await timed(() => crashed.delete())
      if (number === 0) {
        record.first_ms = time // The others take its device.
        return
      }
      record.disk_ms.push(time)
      record.cpu_ms.push(cpu)
      record.mount_ms.push(mount)
      record.delete_ms.push(end)
    })
    progress('states: with e2fsck')
    let damaged = 0
    record.checked = await states(DISKS, async state => {
      const crashed = await state.disk()
      // The journal is not replayed then, so it may find something.
      await execute('e2fsck', ['-fn', crashed.path]).catch(() => damaged++)
      await crashed.delete()
    })
    record.damaged = damaged
    progress('states: without a check')
    record.found = await states(FOUND, () => {})
    record.made = await states(DISKS, async state => await (await state.disk()).delete())
    const running = new Set()
    const make = async state => {
      while (running.size >= AT_ONCE) await Promise.race(running)
      const run = state
        .disk()
        .then(crashed => crashed.delete())
        .finally(() => running.delete(run))
      running.add(run)
    }
    record.made_at_once = await states(DISKS * 2, make, () => Promise.all(running))
    return { at_once: AT_ONCE, ...record }
  } finally {
    await disk.delete({ force: true })
    rmSync(DIR, { recursive: true })
  }
}

/** The memory that a log of 1 GiB takes up, written in small pieces at random, and in large ones in order. */
export async function measureLog({ progress }) {
  const record = { written: WRITTEN }
  for (const [name, pattern, block] of [
    ['small', 'randwrite', '4k'],
    ['large', 'write', '128k'],
  ]) {
    progress(`log: writing ${block}`)
    const disk = await UblkDevice.create({ backend: powercut({ size: '2G' }) })
    const before = residentBytes()
    const words = ['--name=x', `--filename=${disk.path}`, `--rw=${pattern}`, `--bs=${block}`, '--size=2g']
    const load = [
      `--io_size=${WRITTEN}`,
      '--norandommap',
      '--direct=1',
      '--ioengine=io_uring',
      '--iodepth=64',
    ]
    await execute('fio', [...words, ...load])
    record[name] = residentBytes() - before
    await disk.delete({ force: true })
  }
  return record
}

async function timed(action) {
  const [start, before] = [performance.now(), process.cpuUsage()]
  const result = await action()
  const { user, system } = process.cpuUsage(before)
  return [result, performance.now() - start, (user + system) / 1000]
}

/** What is mapped, and what files in memory have. */
function residentBytes() {
  globalThis.gc()
  const mapped = Number(readFileSync('/proc/self/status', 'utf8').match(/^VmRSS:\s*(\d+)/m)[1]) * 1024
  const files = readdirSync('/proc/self/fd').map(fd => `/proc/self/fd/${fd}`)
  const inMemory = files.filter(path => /^\/memfd:/.test(linkOf(path)))
  return mapped + inMemory.reduce((sum, path) => sum + statSync(path).blocks * 512, 0)
}

function linkOf(path) {
  try {
    return readlinkSync(path)
  } catch {
    return '' // It was that of the directory.
  }
}
