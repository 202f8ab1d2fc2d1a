import test from 'ava'
import { file } from '../../dist/backends/file.js'
import { lazy } from '../../dist/backends/lazy.js'
import { memory } from '../../dist/backends/memory.js'
import { worker } from '../../dist/backends/worker.js'
import { fromRecorded, toRecorded } from '../../dist/daemon/recorded-options.js'

test('what is recorded of options is what JSON gives back', t => {
  const backend = worker('file:///disk.js', { list: [1, 'two', null, { deep: true }], none: undefined })
  const recorded = toRecorded({
    backend,
    queues: 2,
    blockSize: '4K',
    discard: false,
    id: 7,
    start: true,
    record: true,
  })
  const back = fromRecorded(JSON.parse(JSON.stringify(recorded)))
  t.deepEqual(back as unknown, {
    backend: {
      kind: 'worker',
      url: 'file:///disk.js',
      options: { list: [1, 'two', null, { deep: true }] },
    },
    queues: 2,
    blockSize: '4K',
    discard: false,
  })
})

test('the path of a file is recorded in full', t => {
  t.deepEqual(toRecorded({ backend: file('disk.img') }).backend, {
    kind: 'file',
    path: `${process.cwd()}/disk.img`,
    direct: false,
  })
})

test('a lazy disk of a source is recorded, with paths in full', t => {
  const backend = lazy({ source: 'https://example.org/a.img', cache: 'a.cache', cacheMax: '64M', fill: '1M' })
  t.deepEqual(toRecorded({ backend }).backend, {
    kind: 'lazy',
    source: 'https://example.org/a.img',
    cache: `${process.cwd()}/a.cache`,
    cacheMax: 2 ** 26,
    fill: 2 ** 20,
    direct: false,
    chunk: 2 ** 17,
    timeout: 60_000,
  })
  const { source } = toRecorded({ backend: lazy({ source: 'a.img' }) }).backend as { source: string }
  t.is(source, `${process.cwd()}/a.img`)
})

// biome-ignore lint/suspicious/noExplicitAny: wrong on purpose
const wrong: [string, any, RegExp][] = [
  ['an object as backend', { backend: { size: 512, read: () => {} } }, /an object as backend has functions/],
  [
    'a lazy backend',
    { backend: lazy({ size: '1M', fetch: () => new Uint8Array() }) },
    /lazy backend has a function/,
  ],
  [
    'a function for the worker',
    { backend: worker('file:///x', () => ({})) },
    /backend\.options is a function/,
  ],
  [
    'shared memory for the worker',
    { backend: worker('file:///x', { deep: [new SharedArrayBuffer(8)] }) },
    /backend\.options\.deep\[0\] is SharedArrayBuffer/,
  ],
  [
    'a number that is none',
    { backend: worker('file:///x', { n: Number.NaN }) },
    /backend\.options\.n is a number/,
  ],
  ['a bigint', { backend: worker('file:///x', 1n) }, /backend\.options is a bigint/],
  ['an observer', { backend: memory('1M'), observe: () => {} }, /observe is a function/],
]
for (const [what, options, message] of wrong) {
  test(`${what} cannot be recorded, and the error says where it is`, t => {
    const error = t.throws(() => toRecorded(options), { message })
    t.is((error as { kind?: string }).kind, 'invalid')
  })
}
