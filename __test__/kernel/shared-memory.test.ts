// processors: 2
import { copyFileSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import test, { type ExecutionContext } from 'ava'
import { type Backend, file, memory, UblkDevice, UblkError, worker } from '../../dist/index.js'
import { leaveNothingBehind } from '../support/devices.js'
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
test('so it does a disk of workers', t =>
  served(t, worker(inMemory, { bytes: new SharedArrayBuffer(2 ** 24), form: 'sync' }), 2))

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
