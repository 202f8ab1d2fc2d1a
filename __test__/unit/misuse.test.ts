import test from 'ava'
import * as api from '../../dist/index.js'
import { UblkError } from '../../dist/index.js'
import * as testing from '../../dist/testing/index.js'

/** Calls of each public function with what it does not take. Those without arguments have none. */
const WRONG: Readonly<Record<string, readonly (readonly unknown[])[]>> = {
  applyDiff: [[], [5, 'b'], ['a'], ['a', 5], ['a', 'b', { singal: 1 }]],
  autoChoices: [],
  checkHistory: [[], ['x'], [[{}]], [[], { bolcks: 1 }]],
  checkLinearizable: [
    [],
    [5],
    ['/dev/null', null],
    ['/dev/null', { secnds: 1 }],
    ['/dev/null', { seconds: 'x' }],
  ],
  commitOverlay: [[], [5, 'b'], ['a'], ['a', {}], ['a', 'b', { froce: true }]],
  concat: [[], [5], [[]], [['a.img']], [[null]]],
  defineBackend: [[], [5], ['disk']],
  faults: [[], [5], [api.memory('1M'), 5], [api.memory('1M'), { profle: 'x' }]],
  features: [],
  file: [[], [5], ['a', { dierct: true }], ['a', 5]],
  lazy: [[], [5], [{ sorce: 'a' }], [{ source: 'a', fill: {} }]],
  memory: [[], [{}], ['1Q'], ['1M', { pags: {} }]],
  missing: [['ignore']],
  nbd: [
    [],
    [5],
    ['http://a/'],
    ['nbds://a/'],
    ['nbd://a/', { jurnal: 1 }],
    ['nbd://a/', { timeout: 1.5 }],
    ['nbd://a/', { journal: '1K' }],
  ],
  nullDisk: [[], ['x'], [-1]],
  overlay: [[], [5], [api.memory('1M'), { uper: 'a' }]],
  powercut: [[], [5], [{ szie: 1 }], [{ size: '1M', unit: 100 }]],
  qemu: [
    [],
    [5],
    ['file.filename=a'],
    [{ driver: 'raw', file: null }],
    ['driver=raw', { keyFlie: 'a' }],
    ['driver=raw,cache.no-flush=on'],
    ['driver=ssh,password=x'],
  ],
  rbd: [[], [5], ['image'], ['pool/image', { usre: 'a' }], ['pool/image', { user: 5 }]],
  qcow2: [[], [5], ['a', { bakcing: 'b' }]],
  s3: [
    [],
    [5, { cache: 'c' }],
    ['http://a/', { cache: 'c' }],
    ['s3://key:secret@a/', { cache: 'c' }],
    ['s3://a/'],
    ['s3://a/', { cahce: 'c' }],
    ['s3://a/', { cache: 'c', durable: 'disk' }],
    ['s3://a/', { cache: 'c', size: 1000 }],
    ['s3://a/', { cache: 'c', delay: 0 }],
    ['s3://a/', { cache: 'c', retain: 0.5 }],
    ['s3://a/b', { cache: 'c', from: 's3://a/c' }],
    ['s3://a/b', { cache: 'c', from: 's3://other/c@d' }],
    ['s3://a/b', { cache: 'c', from: 's3://a/c@d', size: '1M' }],
    ['s3://a/b', { cache: 'c', at: '.' }],
    ['s3://a/b', { cache: 'c', at: new Date(Number.NaN) }],
    ['s3://a/b', { cache: 'c', at: 'monday', retain: 60 }],
  ],
  slice: [[], [5], [api.memory('1M'), { ofset: 1 }]],
  mirror: [
    [],
    [5],
    [[api.memory('1M')]],
    [[api.memory('1M'), api.memory('1M')], { bitmp: 'a' }],
    [[api.memory('1M'), api.memory('1M')], { bitmap: 5 }],
  ],
  stripe: [[], [5], [[api.memory('1M')], { chnk: 1 }]],
  tmpDisk: [[], [5], [{ size: '1M', moutn: true }]],
  tracked: [[], [5], [api.memory('1M')], [api.memory('1M'), { mpa: 'a' }]],
  worker: [[], [5], ['no url']],
}

const functions = Object.entries({ ...api, ...testing }).filter(
  ([, value]) => typeof value === 'function' && !/^class /.test(Function.prototype.toString.call(value)),
)

test('every public function says in one line what is wrong with an argument, with a code of Node’s', async t => {
  t.deepEqual(functions.map(([name]) => name).toSorted(), Object.keys(WRONG).toSorted())
  const wrong: string[] = []
  for (const [name, call] of functions) {
    for (const given of WRONG[name] ?? []) {
      const what = `${name}(${given.map(each => JSON.stringify(each) ?? String(each))})`
      const outcome = await (async () => await (call as (...all: unknown[]) => unknown)(...given))().then(
        () => 'it took that',
        (error: unknown) => error,
      )
      const fits =
        outcome instanceof UblkError &&
        outcome.kind === 'invalid' &&
        /^ERR_(INVALID_ARG_(TYPE|VALUE)|OUT_OF_RANGE)$/.test(outcome.code ?? '') &&
        !outcome.message.includes('\n')
      if (!fits) wrong.push(`${what}: ${outcome}`)
    }
  }
  t.deepEqual(wrong, [])
})
