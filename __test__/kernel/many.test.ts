import { readdirSync, readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import test from 'ava'
import { DiskPool, memory, nullDisk, UblkDevice } from 'ublk-ts'
import { leaveNothingBehind, nodes } from '../support/devices.js'
import { threadsOf } from '../support/proc.js'
import { sh } from '../support/program.js'
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
  return threadsOf('self')
    .map(({ name }) => name)
    .filter(name => !name.startsWith('iou-'))
}

/** The names of threads that serve queues. */
const SERVING = /^ublk(\d+q|-shared)/

/** Waits for threads that are about to end. */
async function threadsAre(wanted: number, which = /^/) {
  const left = () => threads().filter(name => which.test(name))
  await until(() => left().length <= wanted, `${wanted} threads, instead of ${left().join()}`)
}

/**
 * How much memory rounds of the same work add, in MiB: of several, the least. A leak adds to every round; what V8 and the
 * allocators keep of one, they use in the next.
 */
async function growth(round: () => Promise<void>, limit: number): Promise<number> {
  let least = Number.POSITIVE_INFINITY
  for (let rounds = 0; rounds < 3 && least >= limit; rounds++) {
    const before = await held()
    await round()
    least = Math.min(least, (await held()).mebibytes - before.mebibytes)
  }
  return least
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
  const more = await growth(() => cycle(450), 4)
  const after = await held()
  t.log(before, after)
  t.true(after.fds <= before.fds, `${after.fds} descriptors instead of ${before.fds}`)
  await threadsAre(before.threads)
  t.true(more < 4, `${more} MiB more each time`)
})

for (const kind of ['own', 'shared'] as const) {
  test(`256 disks at once on ${kind} threads work, cost little each, and leave nothing behind`, async t => {
    const COUNT = 256
    // Older drivers count every device; newer ones only those of users other than root.
    await sh('echo "$1" >/sys/module/ublk_drv/parameters/ublks_max', `${COUNT + 8}`)
    // The driver handles one command at a time, so that the last of them waits for all the others.
    const options = { depth: 8, maxIo: '64K', threads: kind, timeout: 120_000 } as const
    const create = () => UblkDevice.create({ backend: nullDisk('1G'), ...options })
    const round = async (look: () => Promise<void>) => {
      const disks = await Promise.all(Array.from({ length: COUNT }, create))
      t.is(new Set(disks.map(disk => disk.path)).size, COUNT)
      await look()
      await Promise.all(disks.map(disk => disk.delete({ force: true })))
      await threadsAre(0, SERVING)
    }
    await Promise.all((await Promise.all(Array.from({ length: 4 }, create))).map(disk => disk.delete()))
    await threadsAre(0, SERVING)
    const before = await held()
    let during = before
    await round(async () => {
      t.is((await UblkDevice.list()).filter(info => info.state === 'live').length, COUNT)
      t.is(nodes().length, 2 * COUNT)
      const serving = threads().filter(name => SERVING.test(name))
      if (kind === 'own') t.is(serving.length, COUNT)
      else t.true(serving.length > 0 && serving.length <= Math.min(availableParallelism(), 4), serving.join())
      during = await held()
    })
    const once = await held()
    const more = await growth(() => round(async () => {}), 8)
    await threadsAre(before.threads)
    const after = await held()
    t.log(before, during, once, after)
    // The device, its ring and its waker; beside them the control thread's, and a bell for each shared thread.
    t.is(Math.floor((during.fds - before.fds) / COUNT), 3)
    // Each has 8 requests of at most 64 KiB: half a mebibyte of buffers.
    t.true((during.mebibytes - before.mebibytes) / COUNT < 2.5)
    t.true(after.fds <= before.fds, `${after.fds} descriptors instead of ${before.fds}`)
    // The allocators keep some of what all those threads needed at once, and use it again; a leak would add to it.
    t.true(once.mebibytes - before.mebibytes < 16, `${once.mebibytes - before.mebibytes} MiB more`)
    t.true(more < 8, `${more} MiB more each time`)
  })
}

test('disks that are taken from a pool leave no descriptor or thread behind', async t => {
  const pool = new DiskPool({ spare: 4, copy: 'copy', threads: 'shared', depth: 8 })
  const cycle = async (count: number): Promise<void> => {
    for (let done = 0; done < count; done++) {
      await pool.filled()
      const disks = await Promise.all([1, 2, 3, 4].map(() => pool.take({ backend: memory('4M') })))
      await Promise.all(disks.map(disk => disk.delete({ force: true })))
    }
    await pool.filled()
  }
  await cycle(2)
  const before = await held()
  await cycle(4)
  await until(async () => (await held()).fds <= before.fds + 4, 'the descriptors are closed')
  t.true((await held()).threads <= before.threads + 2)
  await pool.close()
})

test('a process that creates a disk does not look through its open files', async t => {
  const read = async (look: string): Promise<number> => {
    const script = `
      import { openSync } from 'node:fs'
      import { nullDisk, UblkDevice } from 'ublk-ts'
      for (let number = 0; number < 2000; number++) openSync('/dev/null')
      const disk = await UblkDevice.create({ backend: nullDisk('1M') })
      await ${look}
      await disk.delete({ force: true })`
    const trace = 'strace -fqq -e trace=readlink,readlinkat -o /tmp/links node --input-type=module -e "$1"'
    return Number(await sh(`${trace}; grep -c /fd/ /tmp/links || true`, script))
  }
  t.true((await read('disk.info()')) < 100)
  t.true((await read('UblkDevice.list()')) > 2000, 'a list of all devices finds their servers this way')
})

test('the time limit of a deletion does not count those that the driver does before', async t => {
  const options = { backend: nullDisk('1M'), threads: 'shared', timeout: 2000 } as const
  const disks: UblkDevice[] = []
  while (disks.length < 60) {
    // Each creation has that time limit, too.
    disks.push(...(await Promise.all(Array.from({ length: 3 }, () => UblkDevice.create(options)))))
  }
  await t.notThrowsAsync(Promise.all(disks.map(disk => disk.delete())))
})
