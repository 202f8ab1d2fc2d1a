// How long it takes to make a disk and to delete it: alone, with others at once, and beside many.

import { writeFileSync } from 'node:fs'
import { memory, nullDisk, UblkDevice } from 'ublk-ts'

/** How many are made at once, and how often. */
const CROWDS = [
  { at_once: 1, times: 100 },
  { at_once: 16, times: 12 },
  { at_once: 256, times: 2 },
]
/** How many others there are in the second half. */
const BESIDE = 1000
/** How many of those are made at once. */
const GROUP = 50
const BACKENDS = { null: () => nullDisk('64M'), memory: () => memory('64M') }

/** Each kind of disk, with no other ones and beside many. */
export async function measureAttach({ emit, progress }) {
  // Older drivers count all devices, newer ones those of users other than root.
  writeFileSync('/sys/module/ublk_drv/parameters/ublks_max', `${BESIDE + 300}`)
  const others = []
  for (const beside of [0, BESIDE]) {
    progress(`making ${beside} disks`)
    while (others.length < beside)
      others.push(...(await Promise.all(Array.from({ length: GROUP }, () => make('null')))))
    for (const disk of Object.keys(BACKENDS)) {
      await (await make(disk)).delete({ force: true })
      for (const { at_once, times } of CROWDS) {
        progress(`${disk}: ${at_once} at once, beside ${beside}`)
        const record = { kind: 'attach', disk, beside, at_once, create_ms: [], delete_ms: [] }
        for (let time = 0; time < times; time++) await round(record)
        emit(record)
      }
    }
  }
  while (others.length > 0) await Promise.all(others.splice(-GROUP).map(disk => disk.delete({ force: true })))
}

/** Small ones: it is not the buffers that are measured. */
async function make(disk) {
  const form = { threads: 'shared', depth: 8, maxIo: '64K', timeout: 120_000 }
  return await UblkDevice.create({ backend: BACKENDS[disk](), ...form })
}

/** Makes some disks at once, and deletes them at once. */
async function round({ disk, at_once, create_ms, delete_ms }) {
  const timed = async (times, work) => {
    const start = performance.now()
    const result = await work()
    times.push(performance.now() - start)
    return result
  }
  const disks = await Promise.all(Array.from({ length: at_once }, () => timed(create_ms, () => make(disk))))
  await Promise.all(disks.map(made => timed(delete_ms, () => made.delete({ force: true }))))
}
