// How long it takes to make a disk and to delete it: alone, with others at once, and beside many; and to take one from a pool.

import { mkdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { DiskPool, file, nullDisk, overlay, UblkDevice } from 'ublk-ts'

/** How many are made at once, and how often. */
const CROWDS = [
  { at_once: 1, times: 60 },
  { at_once: 16, times: 6 },
  { at_once: 256, times: 1 },
]
/** How many others there are in the second half, and what is measured then. */
const BESIDE = 1000
const CROWDS_BESIDE = [
  { at_once: 1, times: 40 },
  { at_once: 16, times: 4 },
]
/** How many of those are made at once. */
const GROUP = 50
/** How many disks a pool has to spare, and how often they are taken. */
const SPARE = 8
const ROUNDS = 40
const DIR = '/dev/shm/attach'
/** Small ones: it is not the buffers that are measured. */
const FORM = { threads: 'shared', depth: 8, maxIo: '64K', timeout: 120_000 }
const cow = () => overlay(file(`${DIR}/base`), clone())
const DISKS = {
  null: () => ({ backend: nullDisk('64M') }),
  overlay: () => ({ backend: cow() }),
  // The kernel sets up no scheduler for them.
  'overlay, two queues': () => ({ backend: cow(), queues: 2 }),
}

/** Disks with no other ones and beside many. */
export async function measureAttach({ emit, progress }) {
  mkdirSync(DIR)
  writeFileSync(`${DIR}/base`, '')
  truncateSync(`${DIR}/base`, 10 * 2 ** 30)
  // Older drivers count all devices, newer ones those of users other than root.
  writeFileSync('/sys/module/ublk_drv/parameters/ublks_max', `${BESIDE + 300}`)
  const others = []
  for (const [beside, crowds] of [
    [0, CROWDS],
    [BESIDE, CROWDS_BESIDE],
  ]) {
    progress(`making ${beside} disks`)
    while (others.length < beside)
      others.push(...(await Promise.all(Array.from({ length: GROUP }, () => make('null')))))
    for (const disk of Object.keys(DISKS)) {
      await (await make(disk)).delete({ force: true })
      for (const { at_once, times } of crowds) {
        progress(`${disk}: ${at_once} at once, beside ${beside}`)
        const record = { kind: 'attach', disk, beside, at_once, create_ms: [], delete_ms: [] }
        for (let time = 0; time < times; time++) await round(record)
        emit(record)
      }
    }
    progress(`an overlay from a pool, beside ${beside}`)
    emit(await measurePool(beside))
  }
  while (others.length > 0) await Promise.all(others.splice(-GROUP).map(disk => disk.delete({ force: true })))
  rmSync(DIR, { recursive: true })
}

let uppers = 0

function clone() {
  return { upper: `${DIR}/${++uppers}` }
}

async function make(disk) {
  return await UblkDevice.create({ ...FORM, ...DISKS[disk]() })
}

/** Makes some disks at once, and deletes them at once. */
async function round({ disk, at_once, create_ms, delete_ms }) {
  const disks = await Promise.all(Array.from({ length: at_once }, () => timed(create_ms, () => make(disk))))
  await Promise.all(disks.map(made => timed(delete_ms, () => made.delete({ force: true }))))
}

/** Takes all disks of a pool, one after the other, when it is full. */
async function measurePool(beside) {
  const record = { kind: 'attach', disk: 'overlay, pool', beside, at_once: 1, create_ms: [], delete_ms: [] }
  const pool = new DiskPool({ base: file(`${DIR}/base`), spare: SPARE, ...FORM })
  for (let time = 0; time < ROUNDS; time++) {
    await pool.filled()
    const disks = []
    for (let number = 0; number < SPARE; number++)
      disks.push(await timed(record.create_ms, () => pool.take(clone())))
    await Promise.all(disks.map(made => timed(record.delete_ms, () => made.delete({ force: true }))))
  }
  await pool.close()
  return record
}

async function timed(times, work) {
  const start = performance.now()
  const result = await work()
  times.push(performance.now() - start)
  return result
}
