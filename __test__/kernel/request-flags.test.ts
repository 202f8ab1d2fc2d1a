import test from 'ava'
import { type Batch, type DiskChange, Flag, memory, Op, type TraceRecord, UblkDevice } from 'ublk-ts'
import { leaveNothingBehind } from '../support/devices.js'
import { sh } from '../support/program.js'

leaveNothingBehind(test)

const SIZE = 16 * 2 ** 20
const OTHER = { fua: false, failFast: false, swap: false }

test.before('make room', () => sh('mkdir -p /tmp/flags'))
test.after.always(() => sh('rm -rf /tmp/flags'))

/** Makes a file system, and has it commit its journal. */
const useFileSystem = (path: string): Promise<string> =>
  sh(
    `mkfs.ext4 -q "$1"; mount "$1" /tmp/flags; head -c 64k /dev/urandom >/tmp/flags/data
     sync -f /tmp/flags; umount /tmp/flags`,
    path,
  )

test('a file system says which writes are its own structures: to a disk with methods', async t => {
  const bytes = new Uint8Array(SIZE)
  const seen = { meta: 0, data: 0, swap: 0 }
  const disk = await UblkDevice.create({
    backend: {
      size: SIZE,
      read: ({ offset, length }, into) => into.set(bytes.subarray(offset, offset + length)),
      write: ({ offset, meta, swap }, from) => {
        seen[meta ? 'meta' : 'data']++
        if (swap) seen.swap++
        bytes.set(from, offset)
      },
    },
  })
  await useFileSystem(disk.path)
  t.true(seen.meta > 0, 'the journal')
  t.true(seen.data > 0, 'the file')
  t.is(seen.swap, 0)
  await disk.delete()
})

test('a file system says which writes are its own structures: to one that takes batches', async t => {
  const bytes = new Uint8Array(SIZE)
  let meta = 0
  const process = (batch: Batch): void => {
    for (let i = 0; i < batch.count; i++) {
      const [data, offset] = [batch.data(i), batch.offset[i] as number]
      if (batch.op[i] === Op.read) data.set(bytes.subarray(offset, offset + data.length))
      else bytes.set(data, offset)
      if (batch.op[i] === Op.write && ((batch.flags[i] as number) & Flag.meta) !== 0) meta++
    }
  }
  const disk = await UblkDevice.create({ backend: { size: SIZE, process } })
  await useFileSystem(disk.path)
  t.true(meta > 0)
  await disk.delete()
})

test('the flags of requests are in changes and traces', async t => {
  const [changes, records]: [DiskChange[], TraceRecord[]] = [[], []]
  const observe = (told: readonly DiskChange[]): void => void changes.push(...told)
  const disk = await UblkDevice.create({ backend: memory(SIZE), writeCache: true, observe })
  const stop = new AbortController()
  const traced = disk.trace(told => void records.push(...told), { signal: stop.signal })
  await useFileSystem(disk.path)
  await sh('dd if=/dev/zero of="$1" bs=4k count=1 seek=7 oflag=direct status=none', disk.path)
  stop.abort()
  await traced
  await disk.delete()
  for (const [what, all] of [
    ['changes', changes],
    ['trace', records.filter(({ op }) => op === 'write')],
  ] as const) {
    t.true(
      all.some(({ meta }) => meta),
      `${what}: of the file system`,
    )
    t.true(
      all.some(({ meta, fua }) => meta && fua),
      `${what}: a commit of the journal`,
    )
    t.like(
      all.findLast(({ offset }) => offset === 7 * 4096),
      { meta: false, ...OTHER },
      `${what}: by dd`,
    )
  }
})
