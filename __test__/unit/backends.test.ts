import test from 'ava'
import { checkFiles } from '#binding'
import { concat } from '../../dist/backends/concat.js'
import { file } from '../../dist/backends/file.js'
import { KINDS, kindOf } from '../../dist/backends/list.js'
import { memory } from '../../dist/backends/memory.js'
import { nullDisk } from '../../dist/backends/null.js'
import { qcow2 } from '../../dist/backends/qcow2.js'
import { slice } from '../../dist/backends/slice.js'
import {
  checkStack,
  drawStack,
  lastingStack,
  memoryOf,
  ofSize,
  sizeOf,
  stackToNative,
  stackToRecord,
  stackWithoutClaims,
  summaryOf,
} from '../../dist/backends/stack.js'
import { stripe } from '../../dist/backends/stripe.js'
import { tracked } from '../../dist/backends/tracked.js'
import { worker } from '../../dist/backends/worker.js'

test('the native part refuses what it does not know, in one line', async t => {
  const refused = async (backend: {
    kind: string
    [option: string]: unknown
  }): Promise<string | undefined> => {
    return (await t.throwsAsync(checkFiles(backend, [])))?.message
  }
  t.regex(
    (await refused({ kind: 'null', size: 4096, colour: 'red' })) ?? '',
    /^the null backend is wrong: unknown field `colour`[^\n]*$/,
  )
  t.regex((await refused({ kind: 'null' })) ?? '', /missing field `size`/)
  t.regex((await refused({ kind: 'null', size: 1.5 })) ?? '', /1\.5 is not a possible whole number/)
  t.regex((await refused({ kind: 'floppy' })) ?? '', /^there is no backend "floppy"$/)
  await t.notThrowsAsync(checkFiles({ kind: 'null', size: 2 ** 62 }, []))
})

test('a backend written by hand is checked as one that its function made', t => {
  t.deepEqual(checkStack({ kind: 'memory', size: '1M' }), memory('1M'))
  for (const [backend, message] of [
    [{ kind: 'memory', size: '1M', colour: 'red' }, /memory\(\) has no option 'colour'/],
    [{ kind: 'null', size: '1M', colour: 'red' }, /nullDisk\(\) has no option 'colour'/],
    [{ kind: 'file', path: 'a', colour: 'red' }, /file\(\) has no option 'colour'/],
    [{ kind: 'floppy' }, /there is no such backend/],
    [undefined, /there is no such backend/],
  ] as const) {
    t.throws(() => checkStack(backend), { message })
  }
})

test('an image names the backing files that may be opened, and a record names them in full', t => {
  const image = qcow2('a.qcow2', { backing: 'images' })
  t.deepEqual(image.backing, ['images'])
  t.deepEqual(checkStack({ kind: 'qcow2', path: 'a.qcow2', backing: ['images'] }), image)
  t.like(stackToRecord(image), { backing: [`${process.cwd()}/images`] })
  t.throws(() => qcow2('a.qcow2', { backing: [''] }), { message: /the path of a backing file is empty/ })
  t.throws(() => qcow2('a.qcow2', { backing: 1 as unknown as string }), { message: /a list of paths/ })
})

test('kinds have different names, and an object with methods has none', t => {
  t.is(new Set(KINDS.map(kind => kind.name)).size, KINDS.length)
  t.is(kindOf(worker('file:///disk.js'))?.native, false)
  t.is(kindOf({ size: 512, read: () => {} }), undefined)
  t.is(kindOf(null), undefined)
})

const tree = stripe(
  [
    concat([file('a.img'), memory('1M')]),
    slice(memory('4M', { file: '/dev/shm/m' }), { offset: '1M', size: '2M' }),
  ],
  { chunk: '16K' },
)

test('a stack is checked, recorded and described with all that it is made of', t => {
  t.deepEqual(checkStack(JSON.parse(JSON.stringify(tree))), checkStack(tree))
  t.like(stackToRecord(tree), { disks: [{ disks: [{ path: `${process.cwd()}/a.img` }] }], chunk: 16384 })
  t.deepEqual(stackToNative(slice(nullDisk('1M'))), {
    kind: 'slice',
    disk: { kind: 'null', size: 2 ** 20 },
    offset: 0,
  })
  t.deepEqual(memoryOf(tree), [null, '/dev/shm/m'])
  t.is(summaryOf(tree), 'concat(a.img, memory 1M), slice(/dev/shm/m, 2M from 1M), chunk 16K')
  t.deepEqual(drawStack(tree), [
    'stripe chunk 16K',
    '├─ concat',
    '│  ├─ file a.img',
    '│  └─ memory 1M',
    '└─ slice 2M from 1M',
    '   └─ memory /dev/shm/m',
  ])
})

test('what has to outlive its server gets a file, and claims are left out everywhere', t => {
  const made: string[] = []
  const lasting = lastingStack(tree, path => void made.push(path))
  t.deepEqual(memoryOf(lasting), [made[0], '/dev/shm/m'])
  t.is(made.length, 1)
  t.like(stackWithoutClaims(stackToRecord(lasting)), {
    disks: [{ disks: [{ exclusive: false }, { exclusive: false }] }, { disk: { exclusive: false } }],
  })
})

test('a tracked disk has the size of the disk below it, and is below no other', t => {
  const backend = tracked(slice(file('a.img'), { size: '1M' }), { map: 'a.changes' })
  t.deepEqual(checkStack(JSON.parse(JSON.stringify(backend))), checkStack(backend))
  t.is(sizeOf(backend), 2 ** 20)
  const sized = ofSize(tracked(memory('1M'), { map: 'a.changes' }), 2 ** 21)
  t.is(sizeOf(sized), 2 ** 21)
  t.like(stackToRecord(backend), { map: `${process.cwd()}/a.changes` })
  t.throws(() => checkStack({ kind: 'slice', disk: backend, offset: 0 }), {
    message: 'a tracked disk cannot be below a slice',
  })
})

test('a stack that is too high, or stands on itself, is refused', t => {
  let high = slice(nullDisk('1M'))
  for (let level = 0; level < 20; level++) high = slice(high)
  t.throws(() => checkStack(high), { message: /more than 16 backends stand on each other/ })
  const loop: { kind: 'concat'; disks: unknown[] } = { kind: 'concat', disks: [] }
  loop.disks.push(loop)
  t.throws(() => checkStack(loop), { message: /more than 16 backends/ })
})
