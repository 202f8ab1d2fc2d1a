// What it takes to make disks over one base.

import { execFile } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { promisify } from 'node:util'
import { file, nullDisk, overlay, UblkDevice } from 'ublk-ts'

const execute = promisify(execFile)

const DIR = '/dev/shm/clones'
const ALONE = 40
const MANY = 100

/** Clones of a base of 10 GiB, with uppers in files and in memory, and null disks to compare with. */
export async function measureClones() {
  mkdirSync(DIR)
  const base = `${DIR}/base`
  writeFileSync(base, '')
  truncateSync(base, 10 * 2 ** 30)
  writeFileSync('/sys/module/ublk_drv/parameters/ublks_max', `${MANY + 8}`)
  try {
    let next = 0
    const kinds = {
      'overlay, upper in a file': () => overlay(file(base), { upper: `${DIR}/${++next}` }),
      'overlay, upper in memory': () => overlay(file(base)),
      'null disk': () => nullDisk('10G'),
    }
    const records = Object.keys(kinds).map(name => ({ name, devices: MANY, one_ms: [], cpu_ms: [] }))
    const create = make => UblkDevice.create({ backend: make(), threads: 'shared', timeout: 120_000 })
    for (let round = 0; round <= ALONE; round++) {
      for (const record of records) {
        const [disk, time, cpu] = await timed(() => create(kinds[record.name]))
        await disk.delete({ force: true })
        if (round === 0) continue // it warms up
        record.one_ms.push(time)
        record.cpu_ms.push(cpu)
      }
    }
    for (const record of records) {
      const before = residentKib()
      const start = performance.now()
      const disks = await Promise.all(Array.from({ length: MANY }, () => create(kinds[record.name])))
      record.all_ms = performance.now() - start
      record.kib = (residentKib() - before) / MANY
      await Promise.all(disks.map(disk => disk.delete({ force: true })))
    }
    return records
  } finally {
    rmSync(DIR, { recursive: true })
  }
}

/** What 1 GiB costs that was written at random to a disk of 1 TiB: memory, and time when the disk is made again. */
export async function measureLarge() {
  mkdirSync(DIR)
  const base = `${DIR}/base`
  writeFileSync(base, '')
  truncateSync(base, 2 ** 40)
  try {
    const create = name => UblkDevice.create({ backend: overlay(file(base), { upper: `${DIR}/${name}` }) })
    const disk = await create('large')
    const before = residentKib()
    const words = [
      '--name=x',
      `--filename=${disk.path}`,
      '--rw=randwrite',
      '--bs=4k',
      '--size=1t',
      '--io_size=1g',
    ]
    await execute('fio', [...words, '--norandommap', '--direct=1', '--ioengine=io_uring', '--iodepth=64'])
    const written = residentKib()
    await disk.delete({ force: true })
    const times = { large: { ms: [], cpu_ms: [] }, new: { ms: [], cpu_ms: [] } }
    for (let round = 0; round < 15; round++) {
      for (const [key, name] of Object.entries({ large: 'large', new: `new-${round}` })) {
        const [again, time, cpu] = await timed(() => create(name))
        times[key].ms.push(time)
        times[key].cpu_ms.push(cpu)
        await again.delete({ force: true })
      }
    }
    return { kib: written - before, ...times }
  } finally {
    rmSync(DIR, { recursive: true })
  }
}

/** What an action gives, and its time and this process's processor time in milliseconds: the latter also on a busy machine. */
async function timed(action) {
  const [start, before] = [performance.now(), process.cpuUsage()]
  const result = await action()
  const { user, system } = process.cpuUsage(before)
  return [result, performance.now() - start, (user + system) / 1000]
}

function residentKib() {
  globalThis.gc()
  return Number(readFileSync('/proc/self/status', 'utf8').match(/^VmRSS:\s*(\d+)/m)[1])
}
