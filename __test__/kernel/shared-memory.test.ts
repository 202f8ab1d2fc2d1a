// processors: 1 and 2
import { once } from 'node:events'
import { copyFileSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { ExecutionContext } from 'ava'
import { type Backend, file, memory, UblkDevice, UblkError, worker } from '../../dist/index.js'
import { leaveNothingBehind } from '../support/devices.js'
import { onTwo, test } from '../support/processors.js'
import { sh } from '../support/program.js'
import { Server } from '../support/server.js'

leaveNothingBehind(test)

const client = fileURLToPath(new URL('../../examples/shared-memory.py', import.meta.url))
const inMemory = new URL('../backends/memory.js', import.meta.url)

async function withPool(action: (dir: string, pool: string) => Promise<void>): Promise<void> {
  const dir = mkdtempSync('/dev/shm/shared-')
  try {
    writeFileSync(`${dir}/pool`, '')
    truncateSync(`${dir}/pool`, 2 ** 20)
    copyFileSync(process.execPath, `${dir}/source`)
    truncateSync(`${dir}/source`, 6_000_000)
    await action(dir, `${dir}/pool`)
  } finally {
    rmSync(dir, { recursive: true })
  }
}

/** fio writes, and checks what it reads, in the memory. */
const verify = (path: string, pool: string): Promise<string> =>
  sh(
    `cd /tmp; fio --name=x --filename="$1" --mem=mmapshared:"$2" --direct=1 --ioengine=libaio --iodepth=8 --rw=randwrite \
       --bssplit=4k/60:64k/40 --size=8m --verify=crc32c --verify_fatal=1 --verify_state_save=0 --output-format=terse`,
    path,
    pool,
  )

async function served(t: ExecutionContext, backend: Backend, queues = 1): Promise<void> {
  await withPool(async (dir, pool) => {
    await using disk = await UblkDevice.create({ backend, queues, share: [pool], maxIo: '128K' })
    t.true((await disk.info()).flags.includes('SHMEM_ZC'))
    t.is(await sh('"$1" "$2" "$3" "$4"', client, pool, disk.path, `${dir}/source`), '6000000 bytes\n')
    writeFileSync(`${dir}/fio`, '')
    truncateSync(`${dir}/fio`, 2 ** 20)
    await using more = await disk.share(`${dir}/fio`)
    await verify(disk.path, `${dir}/fio`)
    await more.close()
    await verify(disk.path, `${dir}/fio`)
    t.is(
      disk.stats().reduce((sum, queue) => sum + queue.read.errors + queue.write.errors, 0),
      0,
    )
  })
}

test('the example reads and writes a memory disk in shared memory', t => served(t, memory('16M')))
onTwo('so it does a disk of workers', t =>
  served(t, worker(inMemory, { bytes: new SharedArrayBuffer(2 ** 24), form: 'sync' }), 2),
)

test('so it does a disk of a file', async t => {
  const dir = mkdtempSync('/dev/shm/file-')
  try {
    writeFileSync(`${dir}/disk`, '')
    truncateSync(`${dir}/disk`, 2 ** 24)
    await served(t, file(`${dir}/disk`))
  } finally {
    rmSync(dir, { recursive: true })
  }
})

test('so it does a disk of this thread', async t => {
  const bytes = new Uint8Array(2 ** 24)
  await served(t, {
    size: bytes.length,
    async read({ offset, length }, into) {
      into.set(bytes.subarray(offset, offset + length))
    },
    async write({ offset }, from) {
      bytes.set(from, offset)
    },
  })
})

test('the command line shares memory too', async t => {
  await withPool(async (dir, pool) => {
    await Server.with(`--mem 16M --share ${pool}`, async ({ path }) => {
      t.is(await sh('"$1" "$2" "$3" "$4"', client, pool, path, `${dir}/source`), '6000000 bytes\n')
    })
    t.is(readFileSync(pool).length, 2 ** 20)
  })
})

test('what cannot be shared is refused in one line', async t => {
  const refused = async (wish: Promise<unknown>): Promise<string> =>
    (await t.throwsAsync(wish, { instanceOf: UblkError }))?.message ?? ''
  const backend = memory('1M')
  t.regex(
    await refused(UblkDevice.create({ backend, share: ['/dev/shm/none'] })),
    /^cannot open \/dev\/shm\/none: /,
  )
  t.is(
    await refused(UblkDevice.create({ backend, share: [], recovery: 'reissue' })),
    'a disk that shares memory cannot be recoverable',
  )
  t.is(
    await refused(UblkDevice.create({ backend, share: [''] })),
    'share must be a list of paths of files in memory',
  )
  await using disk = await UblkDevice.create({ backend })
  t.is(await refused(disk.share('/dev/zero')), 'the device cannot share memory')
})

/** Python in a process of its own: `pool` is a mapping of the memory, `disk` the open disk, `at(n)` a part of the mapping. */
const outside = (script: string, pool: string, path: string): Promise<string> =>
  sh(
    `python3 -c 'import mmap, os, sys, threading
pool = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 2 ** 20)
disk = os.open(sys.argv[2], os.O_RDWR | os.O_DIRECT)
at = lambda n: memoryview(pool)[n:n + 4096]
${script}' "$1" "$2"`,
    pool,
    path,
  )

test('memory that is cut short costs its requests, and neither the server nor its other disks', async t => {
  await withPool(async (_, pool) => {
    const gate = { held: () => {}, release: () => {} }
    const isHeld = new Promise<void>(resolve => {
      gate.held = resolve
    })
    const released = new Promise<void>(resolve => {
      gate.release = resolve
    })
    const bytes = new Uint8Array(2 ** 24)
    const backend = {
      size: bytes.length,
      async read({ offset, length }: { offset: number; length: number }, into: Uint8Array) {
        if (offset === 2 ** 20) {
          gate.held()
          await released
        }
        into.set(bytes.subarray(offset, offset + length))
      },
    }
    await using other = await UblkDevice.create({ backend: memory('16M') })
    await using disk = await UblkDevice.create({ backend, share: [pool] })
    const told = once(disk, 'error') as Promise<[UblkError]>
    const client = outside(
      'try:\n  os.preadv(disk, [at(8192)], 2 ** 20)\n  print("read")\nexcept OSError as error:\n  print(error.errno)',
      pool,
      disk.path,
    )
    await isHeld
    truncateSync(pool, 0)
    gate.release()
    t.is(await client, '5\n')
    t.is(
      (await told)[0].message,
      `the shared memory ${pool} was truncated from 1048576 to 0 bytes: requests in the missing part fail`,
    )
    for (const { path } of [disk, other])
      await sh('dd if="$1" of=/dev/null bs=64k count=4 iflag=direct status=none', path)
  })
})

onTwo('what JavaScript sees of shared memory stays as it is, whatever its clients do meanwhile', async t => {
  await withPool(async (_, pool) => {
    let [looked, changed] = [0, 0]
    const backend = {
      size: 2 ** 24,
      read: () => {},
      write: (_: unknown, from: Uint8Array) => {
        const before = from.slice()
        const until = performance.now() + 20
        while (performance.now() < until) if (Buffer.compare(before, from) !== 0) changed++
        looked++
      },
    }
    await using disk = await UblkDevice.create({ backend, share: [pool] })
    await outside(
      `go = True
def scribble():
  n = 0
  while go:
    n += 1
    at(0)[:] = bytes([n % 256]) * 4096
thread = threading.Thread(target=scribble)
thread.start()
for n in range(4): os.pwritev(disk, [at(0)], 4096 * n)
go = False
thread.join()`,
      pool,
      disk.path,
    )
    t.true(looked >= 4)
    t.is(changed, 0)
  })
})
