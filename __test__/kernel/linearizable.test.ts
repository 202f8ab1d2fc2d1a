/** Each kind of disk does what disks promise to several clients at once, and disks that do not are found out. */
import { mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import test from 'ava'
import {
  type Backend,
  concat,
  type FaultRule,
  faults,
  file,
  lazy,
  memory,
  mirror,
  nbd,
  overlay,
  powercut,
  qcow2,
  qemu,
  s3,
  slice,
  stripe,
  tracked,
  UblkDevice,
  type UblkError,
  worker,
} from 'ublk-ts'
import { checkLinearizable, LinearizabilityError, tmpDisk } from 'ublk-ts/testing'
import { KINDS } from '../../dist/backends/list.js'
import { Checker } from '../../dist/testing/linearizable/check-linearizable.js'
import { memoryDisk, type Options } from '../backends/memory.js'
import { WRONG } from '../backends/wrong.js'
import { leaveNothingBehind } from '../support/devices.js'
import { NbdServer } from '../support/nbd-server.js'
import { sh } from '../support/program.js'
import { writeImage } from '../support/qcow2-image.js'

const DIR = mkdtempSync('/dev/shm/linearizable-')
const at = (name: string): string => join(DIR, name)
/** One process for all checks: starting it takes longer than they do. */
const checker = new Checker()
leaveNothingBehind(test)
test.after.always(() => checker[Symbol.asyncDispose]())
test.before('files', () => sh('cd "$1"; truncate -s 1M disk left right base', DIR))
test.after.always(() => rmSync(DIR, { recursive: true, force: true }))

const SIZE = 2 ** 20
const MODULE = new URL('../backends/memory.js', import.meta.url)
const IN_FILE = new URL('../backends/in-file.js', import.meta.url)
const room = (): SharedArrayBuffer => new SharedArrayBuffer(SIZE)
const inWorker = (form: Options['form']): Backend => worker(MODULE, { bytes: room(), form })
const inThread = (form: Options['form']): Backend => memoryDisk(new Uint8Array(room()), form)
/** Requests overtake each other, and some fail. */
const UNRULY: FaultRule[] = [
  { op: ['read', 'write'], probability: 0.3, delay: { from: '0ms', to: '3ms' } },
  { op: 'write', probability: 0.02, errno: 'EIO' },
  { op: 'read', probability: 0.02, errno: 'EIO' },
]

/** By the name of its kind; parts meet at 64 KiB, in the middle of the blocks that are used. */
const DISKS: Readonly<Record<string, () => Backend>> = {
  memory: () => memory(SIZE),
  'memory in a file': () => memory(SIZE, { file: at('memory') }),
  file: () => file(at('disk')),
  lazy: () => lazy({ size: SIZE, cache: at('cache'), fetch: ({ length }) => new Uint8Array(length) }),
  'lazy, of a file': () => lazy({ source: at('base'), cache: at('copy'), cacheMax: '6M' }),
  qcow2: () => qcow2(at('image')),
  nbd: () => nbd(`nbd+unix:///?socket=${at('socket')}`),
  s3: () => s3(`file://${at('store')}`, { cache: at('volume-cache'), cacheMax: '64M', size: '1M' }),
  qemu: () => qemu({ driver: 'raw', file: { driver: 'file', filename: at('disk') } }),
  worker: () => worker(IN_FILE, { path: at('disk'), size: SIZE }),
  'worker, async': () => inWorker('async'),
  'worker, batch': () => inWorker('batch'),
  'plain object': () => inThread('sync'),
  'plain object, async': () => inThread('async'),
  'plain object, async batch': () => inThread('async batch'),
  slice: () => slice(file(at('disk')), { offset: '64K' }),
  concat: () => concat([slice(file(at('left')), { size: '64K' }), file(at('right'))]),
  mirror: () => mirror([file(at('left')), file(at('right'))], { bitmap: at('mirror.map') }),
  stripe: () => stripe([file(at('left')), file(at('right'))], { chunk: '16K' }),
  overlay: () => overlay(file(at('base')), { upper: at('upper') }),
  'overlay in memory': () => overlay(file(at('base'))),
  tracked: () => tracked(file(at('disk')), { map: at('changes') }),
  faults: () => faults(memory(SIZE), UNRULY),
  'faults, over files': () => faults(stripe([file(at('left')), file(at('right'))], { chunk: '4K' }), UNRULY),
  powercut: () => powercut({ size: SIZE }),
}

for (const [name, make] of Object.entries(DISKS)) {
  test(`each block is a register: ${name}`, async t => {
    if (name === 'qcow2') writeImage(at('image'), SIZE)
    await using _server = name === 'nbd' ? await NbdServer.nbdkit('memory 1M', at('socket')) : undefined
    await using disk = await UblkDevice.create({ backend: make() })
    const report = await checker.check(disk.path, { operations: 1000, seed: 1 })
    t.log(JSON.stringify(report))
    t.true(report.reads > 400 && report.writes > 300 && report.concurrent > 50)
    t.is(report.failed > 0, name.startsWith('faults'))
  })
}

test('each block is a register: crash-state', async t => {
  await using recorded = await UblkDevice.create({ backend: powercut({ size: SIZE }) })
  await sh(
    'head -c 1M /dev/urandom | dd of="$1" bs=64k oflag=direct iflag=fullblock status=none',
    recorded.path,
  )
  for await (const state of recorded.crashStates({ budget: 1 })) {
    await using disk = await state.disk()
    await t.notThrowsAsync(checker.check(disk.path, { operations: 1000, seed: 1 }))
  }
})

test('no kind of disk is left out', t => {
  const without = ['null'] // It keeps nothing.
  const names = [...Object.keys(DISKS), 'crash-state']
  t.deepEqual(
    KINDS.filter(({ name }) => !without.includes(name) && !names.includes(name)),
    [],
  )
})

test('an overlay stays a disk during commits, a snapshot and a flatten', async t => {
  await using disk = await UblkDevice.create({ backend: overlay(file(at('base')), { upper: at('live') }) })
  const check = t.notThrowsAsync(checker.check(disk.path, { seconds: 2, seed: 1 }))
  try {
    await sleep(300)
    await disk.commit()
    await disk.commit()
    await disk.snapshot('one')
    await disk.flatten()
  } finally {
    await check
  }
})

for (const [name, { make, kinds }] of Object.entries(WRONG)) {
  test(`a disk is found out that ${name}`, async t => {
    await using disk = await UblkDevice.create({ backend: make(new Uint8Array(room())) })
    const error = await t.throwsAsync(checker.check(disk.path, { operations: 1000, seed: 1 }), {
      instanceOf: LinearizabilityError,
    })
    t.true(kinds.includes(error?.violation.kind as never), error?.message)
    t.log(error?.message)
  })
}

for (const [name, effect] of Object.entries({
  'loses a write': { op: 'write', lose: true },
  'writes to another place': { op: 'write', misdirect: 512 },
  'tears a write': { op: 'write', tear: 512 },
  'changes a bit': { op: 'read', corrupt: true },
} as const)) {
  test(`a disk is found out that ${name}`, async t => {
    await using disk = await tmpDisk({ size: SIZE, faults: [{ ...effect, probability: 0.01 }] })
    const error = await t.throwsAsync(checker.check(disk.path, { operations: 1000, seed: 1 }), {
      instanceOf: LinearizabilityError,
    })
    t.regex(error?.message ?? '', /^\/dev\/ublkb\d+ is not linearizable \(seed 1\)\nblock \d+: a read saw /)
    t.log(error?.message)
  })
}

test('the example passes', async t => {
  t.regex(
    await sh('node --test --test-reporter=tap dist-test/examples/testing/linearizable.test.js'),
    /# pass 1\n# fail 0\n/,
  )
})

test('a mounted disk is not overwritten', async t => {
  await using disk = await tmpDisk({ size: '16M', fs: 'ext4', mount: true })
  const error = await t.throwsAsync<UblkError>(checker.check(disk.path))
  t.deepEqual([error?.kind, error?.message], ['busy', `${disk.path} is in use`])
})

test('a disk of which every read fails, or that is too small, has not passed', async t => {
  await using disk = await tmpDisk({ size: '16K', faults: [{ op: 'read', errno: 'EIO' }] })
  const error = await t.throwsAsync<UblkError>(checker.check(disk.path, { operations: 100 }))
  t.is(error?.kind, 'backend')
  t.regex(error?.message ?? '', /^no read of \S+ succeeded: EIO/)
  const small = await t.throwsAsync<UblkError>(checker.check(disk.path, { blocks: 33 }))
  t.is(small?.message, 'the disk has 16K, and the blocks would end at 16.5K')
})

test('a check of a disk that hangs can be ended, and leaves nothing', async t => {
  await using disk = await tmpDisk({ size: SIZE, faults: [{ op: 'write', after: 100, hang: true }] })
  const reason = new Error('enough')
  const ended = new AbortController()
  const check = checkLinearizable(disk.path, { writers: 2, signal: ended.signal })
  while ((await disk.faults.get()).hanging === 0) await sleep(20)
  ended.abort(reason)
  t.is(await t.throwsAsync(check), reason)
})
