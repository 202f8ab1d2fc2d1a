import test, { type ExecutionContext } from 'ava'
import { type Backend, UblkDevice, type UblkError, worker } from 'ublk-ts'
import { flushedDisk, type Options } from '../backends/flushed.js'
import { leaveNothingBehind } from '../support/devices.js'
import { sh } from '../support/program.js'

leaveNothingBehind(test)

const MODULE = new URL('../backends/flushed.js', import.meta.url)
const SIZE = 4 * 2 ** 20
const FORMS = ['sync', 'async', 'batch', 'async batch'] as const

function options(form: Options['form']): Options & { kept: () => Uint8Array } {
  const [bytes, durable] = [new SharedArrayBuffer(SIZE), new SharedArrayBuffer(SIZE)]
  return { form, bytes, durable, kept: () => new Uint8Array(durable) }
}

/** Writes 16 blocks without a flush, and zeroes one; what a power cut would leave has all of them. */
async function isDurable(t: ExecutionContext, path: string, kept: () => Uint8Array): Promise<void> {
  await sh(
    'head -c 65536 /dev/zero | tr "\\\\000" "\\\\007" | dd of="$1" bs=4k count=16 iflag=fullblock oflag=direct status=none',
    path,
  )
  t.true(
    kept()
      .subarray(0, 65536)
      .every(byte => byte === 7),
    'the writes are durable',
  )
  await sh('blkdiscard -z -o 4096 -l 4096 "$1"', path)
  t.true(
    kept()
      .subarray(4096, 8192)
      .every(byte => byte === 0),
    'the zeroes are durable',
  )
}

for (const form of FORMS) {
  for (const where of ['worker', 'object'] as const) {
    test.serial(
      `without a write cache every write of a disk with flush is durable: ${form}, ${where}`,
      async t => {
        const { kept, ...given } = options(form)
        const backend: Backend = where === 'worker' ? worker(MODULE, given) : flushedDisk(given)
        await using disk = await UblkDevice.create({ backend, writeCache: false, partitionScan: false })
        const { writeCache, fua } = await disk.info()
        t.deepEqual([writeCache, fua], [false, false])
        await isDurable(t, disk.path, kept)
      },
    )
  }
}

test.serial('with a write cache a write is durable with the next flush', async t => {
  const { kept, ...given } = options('sync')
  await using disk = await UblkDevice.create({ backend: worker(MODULE, given), partitionScan: false })
  const { writeCache, fua } = await disk.info()
  t.deepEqual([writeCache, fua], [true, true])
  const write =
    'head -c 4096 /dev/zero | tr "\\\\000" "\\\\007" | dd of="$1" bs=4k count=1 iflag=fullblock oflag=direct status=none'
  await sh(write, disk.path)
  t.false(
    kept()
      .subarray(0, 4096)
      .every(byte => byte === 7),
  )
  await sh(`${write} conv=fsync`, disk.path)
  t.true(
    kept()
      .subarray(0, 4096)
      .every(byte => byte === 7),
  )
})

test.serial('a write that cannot be made durable fails', async t => {
  const backend = {
    size: SIZE,
    read() {},
    write() {},
    flush() {
      throw Object.assign(new Error('no room'), { code: 'ENOSPC' })
    },
  }
  await using disk = await UblkDevice.create({ backend, writeCache: false, partitionScan: false })
  disk.on('error', () => {})
  const writing = sh('dd if=/dev/zero of="$1" bs=4k count=1 oflag=direct status=none', disk.path)
  await t.throwsAsync(writing, { message: /No space left/ })
})

test.serial(
  'a disk without a cache stays durable with a backend that has one, and the other way round',
  async t => {
    const { kept, ...given } = options('sync')
    const withoutCache = { size: SIZE, read() {}, write() {}, writeZeroes() {} }
    const disk = await UblkDevice.create({ backend: withoutCache, recovery: 'reissue', partitionScan: false })
    await disk.quiesce()
    await disk.release()
    const taken = await UblkDevice.recover(disk.id, { backend: worker(MODULE, given) })
    t.false((await taken.info()).writeCache)
    await isDurable(t, taken.path, kept)
    await taken.delete({ force: true })

    const cached = await UblkDevice.create({
      backend: worker(MODULE, given),
      recovery: 'reissue',
      partitionScan: false,
    })
    await cached.quiesce()
    await cached.release()
    await using other = await UblkDevice.recover(cached.id, { backend: withoutCache })
    t.true((await other.info()).writeCache)
    await sh('dd if=/dev/zero of="$1" bs=4k count=4 conv=fsync status=none', other.path) // Its flushes are answered.
  },
)

test.serial('a disk that can be written is not taken over by a backend that cannot write', async t => {
  const bytes = new Uint8Array(SIZE)
  const backend = {
    size: SIZE,
    read() {},
    write: ({ offset }: { offset: number }, from: Uint8Array) => bytes.set(from, offset),
  }
  const disk = await UblkDevice.create({ backend, recovery: 'reissue', partitionScan: false })
  await disk.quiesce()
  await disk.release()
  const error = await t.throwsAsync<UblkError>(
    UblkDevice.recover(disk.id, { backend: { size: SIZE, read() {} } }),
    {
      message: /is writable, and the backend cannot write/,
    },
  )
  t.is(error?.kind, 'invalid')
  await using again = await UblkDevice.recover(disk.id, { backend })
  await sh('dd if=/dev/zero of="$1" bs=4k count=1 oflag=direct status=none', again.path)
})
