// processors: 2
/** Disks of every kind in every way that the driver, as this kernel has it, can be made to serve them. */
import test from 'ava'
import { type Backend, file, memory, UblkDevice, UblkError, worker } from 'ublk-ts'
import { memoryDisk, type Options } from '../backends/memory.js'
import { errorsOf, leaveNothingBehind } from '../support/devices.js'
import { inLab, kernelHas, MODES } from '../support/modes.js'
import { sh } from '../support/program.js'
import { MEBIBYTES, verify } from '../support/verify.js'

leaveNothingBehind(test)

const IMAGE = '/tmp/modes.img'
const MODULE = new URL('../backends/memory.js', import.meta.url)
const room = (): SharedArrayBuffer => new SharedArrayBuffer(MEBIBYTES * 2 ** 20)
const workers = (form: Options['form']): Backend => worker(MODULE, { bytes: room(), form })

const disks = [
  { kind: 'memory', ways: ['copy', 'user'], queues: 2, make: (): Backend => memory(`${MEBIBYTES}M`) },
  { kind: 'a file', ways: ['copy', 'zero'], queues: 2, make: (): Backend => file(IMAGE) },
  { kind: 'workers, sync', ways: ['copy', 'user'], queues: 2, make: (): Backend => workers('sync') },
  { kind: 'workers, in batches', ways: ['copy', 'user'], queues: 2, make: (): Backend => workers('batch') },
  {
    kind: 'this thread, async',
    ways: ['copy', 'user'],
    queues: 1,
    make: (): Backend => memoryDisk(new Uint8Array(room()), 'async'),
  },
] as const

const counted = { verified: 0, refused: 0 }

test.before('make room', () => sh('truncate -s "$2" "$1"', IMAGE, `${MEBIBYTES}M`))
test.after.always(() => sh('rm -f "$1"', IMAGE))

for (const { kind, ways, queues, make } of disks) {
  for (const mode of MODES) {
    const { transport, copy } = mode
    const able = ways.some(way => way === copy)
    if (able && kernelHas(mode)) {
      test(`what fio writes is what it reads: ${kind}, transport ${transport}, copy ${copy}`, async t => {
        await using disk = await UblkDevice.create({ backend: make(), queues, maxIo: '1M', ...mode })
        t.like(await disk.info(), mode)
        const errors = errorsOf(disk)
        await verify(disk.path, ['sequential-128', 'random-16'])
        t.deepEqual(errors, [])
        counted.verified++
      })
    } else {
      test(`refused for its reason: ${kind}, transport ${transport}, copy ${copy}`, async t => {
        const error = await t.throwsAsync(UblkDevice.create({ backend: make(), queues, ...mode }), {
          instanceOf: UblkError,
        })
        t.is(error?.kind, 'unsupported')
        t.regex(error?.message ?? '', /^(transport|copy) [a-z-]+ is not possible: /)
        const lacks = !kernelHas({ transport, copy: 'copy' }) || able
        t.regex(error?.message ?? '', lacks ? /this kernel lacks [A-Z_]+$/ : /this disk's backend cannot$/)
        counted.refused++
      })
    }
  }
}

test('nothing was left out', t => {
  const { verified, refused } = counted
  t.log(`${verified} verified, ${refused} refused`)
  t.is(verified + refused, disks.length * MODES.length)
  if (inLab) t.is(verified, 20)
})

test('what is chosen for a disk, or was asked for, is told with the reason', async t => {
  await using own = await UblkDevice.create({ backend: memory('16M') })
  const { transport, copy } = await own.info()
  t.like(own.choice, { transport, copy })
  t.false([own.choice?.transportBecause, own.choice?.copyBecause].includes('asked for'))
  await using asked = await UblkDevice.create({
    backend: memory('16M'),
    transport: 'per-io',
    copy: 'copy',
  })
  t.deepEqual(asked.choice, {
    transport: 'per-io',
    transportBecause: 'asked for',
    copy: 'copy',
    copyBecause: 'asked for',
  })
})
