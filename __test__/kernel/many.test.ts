import { readdirSync, readFileSync } from 'node:fs'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import test from 'ava'
import { memory, nullDisk, UblkDevice } from 'ublk-ts'
import { leaveNothingBehind, nodes } from '../support/devices.js'
import { until } from '../support/server.js'

leaveNothingBehind(test)

setFlagsFromString('--expose-gc')
const collectGarbage: () => void = runInNewContext('gc')

/** What this process holds. */
async function held() {
  collectGarbage()
  await new Promise(resolve => setImmediate(resolve))
  collectGarbage()
  const pages = Number(readFileSync('/proc/self/statm', 'utf8').split(' ')[1])
  return {
    fds: readdirSync('/proc/self/fd').length,
    threads: threads().length,
    mebibytes: (pages * 4096) / 2 ** 20,
  }
}

/** The names of this process's threads, but for the workers that the kernel keeps idle for io_uring. */
function threads(): string[] {
  const name = (task: string) => {
    try {
      return readFileSync(`/proc/self/task/${task}/comm`, 'utf8').trim()
    } catch {
      return 'iou-gone' // It ended meanwhile.
    }
  }
  return readdirSync('/proc/self/task')
    .map(name)
    .filter(name => !name.startsWith('iou-'))
}

/** Waits for threads that are about to end. */
async function threadsAre(wanted: number) {
  await until(() => threads().length <= wanted, `${wanted} threads, instead of ${threads().join()}`)
}

test('500 disks one after the other leave no descriptor, thread or memory behind', async t => {
  // A few at a time, since what takes long in one is the kernel waiting.
  const LANES = 5
  const lane = async (count: number) => {
    for (let done = 0; done < count; done++) {
      const disk = await UblkDevice.create({ backend: memory('16M') })
      await disk.delete({ force: true })
    }
  }
  const cycle = async (count: number) => {
    await Promise.all(Array.from({ length: LANES }, () => lane(count / LANES)))
  }
  await cycle(50)
  const before = await held()
  await cycle(450)
  const after = await held()
  t.log(before, after)
  t.is(after.fds, before.fds)
  await threadsAre(before.threads)
  t.true(after.mebibytes - before.mebibytes < 4, `${after.mebibytes - before.mebibytes} MiB more`)
})

test('64 disks at once work, cost little each, and leave nothing behind', async t => {
  // The driver handles one command at a time, so that the last of them waits for all the others.
  const timeout = 60_000
  const create = () => UblkDevice.create({ backend: nullDisk('1G'), depth: 8, maxIo: '64K', timeout })
  await (await create()).delete({ force: true })
  const before = await held()
  const disks = await Promise.all(Array.from({ length: 64 }, create))
  t.is(new Set(disks.map(disk => disk.path)).size, 64)
  t.is((await UblkDevice.list()).filter(info => info.state === 'live').length, 64)
  t.is(nodes().length, 128)
  const during = await held()
  await Promise.all(disks.map(disk => disk.delete({ force: true })))
  const after = await held()
  t.log(before, during, after)
  // Each has 8 requests of at most 64 KiB: half a mebibyte of buffers.
  t.true((during.mebibytes - before.mebibytes) / 64 < 2.5)
  t.is(after.fds, before.fds)
  await threadsAre(before.threads)
  t.true(after.mebibytes - before.mebibytes < 4, `${after.mebibytes - before.mebibytes} MiB more`)
})
