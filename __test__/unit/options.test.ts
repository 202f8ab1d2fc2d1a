import test from 'ava'
import { file } from '../../dist/backends/file.js'
import { lazy } from '../../dist/backends/lazy.js'
import { memory } from '../../dist/backends/memory.js'
import { nullDisk } from '../../dist/backends/null.js'
import { UblkError } from '../../dist/errors.js'
import type { DeviceOptions } from '../../dist/options/device-options.js'
import { toSpec } from '../../dist/options/spec.js'
import type { Observe } from '../../dist/runtime/observer.js'

const backend = memory('16M')

test('what is not given is left to the native part', t => {
  const spec = toSpec({ backend })
  t.deepEqual(spec.backend, { kind: 'memory', size: 16777216 })
  const given = Object.entries(spec).filter(([key, value]) => key !== 'backend' && value !== undefined)
  t.deepEqual(given, [])
})

test('sizes may be text', t => {
  t.like(toSpec({ backend, blockSize: '4K', physicalBlockSize: '8K', maxIo: '1M', maxDiscard: '2M' }), {
    blockSize: 4096,
    physicalBlockSize: 8192,
    maxIo: 2 ** 20,
    maxDiscard: 2 ** 21,
  })
})

test('the limits themselves are accepted', t => {
  t.notThrows(() => toSpec({ backend, id: 0, queues: 1, depth: 1, maxIo: 4096, timeout: 1 }))
  t.notThrows(() => toSpec({ backend, id: 1048575, queues: 4096, depth: 4096, maxIo: '32M' }))
})

test('pages of memory are wished for by name', t => {
  const pages = { prefault: true, hugePages: false, lock: true }
  t.deepEqual(toSpec({ backend, buffers: pages }).buffers, pages)
  t.like(toSpec({ backend: memory('16M', { pages }) }).backend, { kind: 'memory', pages })
  t.throws(() => memory('16M', { file: '/dev/shm/disk', pages }), { message: /not for a file/ })
  t.throws(() => memory('16M', { pages: { huge: true } as never }), { message: /pages are not understood/ })
})

test('only native disks share threads', t => {
  t.is(toSpec({ backend, threads: 'shared' }).threads, 'shared')
  const external = { kind: 'external', size: 2 ** 20 } as const
  t.is(toSpec({ backend, threads: 'own' }, external).threads, 'own')
  t.throws(() => toSpec({ backend, threads: 'shared' }, external), {
    instanceOf: UblkError,
    message: /written in JavaScript cannot share/,
  })
  t.throws(() => toSpec({ backend, affinity: true }, external), { message: /affinity is for native threads/ })
  t.throws(() => toSpec({ backend, threadsPerQueue: 2 }, external), {
    message: /native threads of their own/,
  })
  t.is(toSpec({ backend, affinity: false }, external).affinity, false)
})

test('a way to serve a disk is left to the native part, which knows what is possible', t => {
  for (const transport of ['auto', 'per-io', 'batch'] as const) {
    for (const copy of ['auto', 'copy', 'user', 'zero'] as const) {
      t.like(toSpec({ backend, transport, copy }), { transport, copy })
    }
  }
})

test('a backend is made by its function, or looks like it', t => {
  t.deepEqual(nullDisk('1T'), { kind: 'null', size: 2 ** 40 })
  t.deepEqual(file('a.img'), { kind: 'file', path: 'a.img', direct: false, exclusive: undefined })
  t.deepEqual(file(new URL('file:///tmp/a%20b'), { direct: true }), {
    kind: 'file',
    path: '/tmp/a b',
    direct: true,
    exclusive: undefined,
  })
  t.throws(() => memory(0), { message: /size 0 is too small/ })
  t.throws(() => file(''), { message: /empty/ })
})

// As JavaScript may pass them: without regard to types.
const wrong: [string, Record<string, unknown>, RegExp][] = [
  ['no backend', { backend: undefined }, /no such backend/],
  ['a backend of an unknown kind', { backend: { kind: 'cloud' } }, /no such backend/],
  ['a backend of size 0', { backend: { kind: 'memory', size: 0 } }, /size 0 is too small/],
  ['a backend of size NaN', { backend: { kind: 'null', size: Number.NaN } }, /not understood/],
  ['a file without a path', { backend: { kind: 'file' } }, /path of the file is empty/],
  [
    'a size that is no multiple of 512',
    { backend: memory(1000) },
    /1000 is not a multiple of the block size 512/,
  ],
  ['a size that is no multiple of the block', { backend: memory(512), blockSize: 4096 }, /block size 4096/],
  ['block size 1000', { blockSize: 1000 }, /block size must be 512, 1024, 2048 or 4096, not 1000/],
  ['block size 8192', { blockSize: 8192 }, /block size must be/],
  ['queues 0', { queues: 0 }, /queues must be a whole number from 1 to 4096, not 0/],
  ['queues 5000', { queues: 5000 }, /not 5000/],
  ['queues 1.5', { queues: 1.5 }, /not 1.5/],
  ['threads of nobody', { threads: 'none' }, /threads must be own or shared, not none/],
  ['a transport of its own', { transport: 'fast' }, /transport must be auto, per-io or batch, not fast/],
  ['no copy at all', { copy: false }, /copy must be auto, copy, user or zero, not false/],
  ['a recovery by hand', { recovery: 'retry' }, /recovery must be requeue, reissue or fail, not retry/],
  ['an affinity of shared threads', { threads: 'shared', affinity: true }, /affinity is for native threads/],
  ['a poll of an eternity', { poll: 1001 }, /poll must be a whole number from 0 to 1000, not 1001/],
  ['a poll by shared threads', { threads: 'shared', poll: 50 }, /shared threads do not poll/],
  ['buffers of a kind that there is not', { buffers: { large: true } }, /buffers are not understood/],
  ['buffers as text', { buffers: 'lock' }, /buffers are not understood/],
  ['locked buffers in other words', { buffers: { lock: 'yes' } }, /buffers are not understood/],
  [
    'no thread for a queue',
    { threadsPerQueue: 0 },
    /threads per queue must be a whole number from 1 to 64, not 0/,
  ],
  ['more threads than requests', { threadsPerQueue: 8, depth: 4 }, /no more than the depth 4, not 8/],
  [
    'several shared threads for a queue',
    { threads: 'shared', threadsPerQueue: 2 },
    /native threads of their own/,
  ],
  ['queues as text', { queues: '2' }, /queues must be/],
  ['depth 0', { depth: 0 }, /depth must be a whole number from 1 to 4096, not 0/],
  ['depth 5000', { depth: 5000 }, /not 5000/],
  ['id -1', { id: -1 }, /id must be/],
  ['id 2**20', { id: 2 ** 20 }, /id must be a whole number from 0 to 1048575/],
  [
    'a physical block below the logical',
    { blockSize: 4096, physicalBlockSize: 512 },
    /physical block size must/,
  ],
  ['a physical block of 3 KiB', { physicalBlockSize: 3072 }, /power of two/],
  ['max io below a page', { maxIo: 512 }, /max io must be/],
  ['max io beyond 32 MiB', { maxIo: '33M' }, /max io must be/],
  ['max io of 5000 bytes', { maxIo: 5000 }, /multiple of 4K/],
  ['a discard granularity of 100', { discardGranularity: 100 }, /discard granularity must be a multiple/],
  ['a discard limit of 0', { maxDiscard: 0 }, /max discard must be a multiple/],
  ['a timeout of 0', { timeout: 0 }, /timeout must be/],
  ['a flag that is text', { readOnly: 'yes' }, /read only must be true or false, not yes/],
]
for (const [name, options, message] of wrong) {
  test(`${name} is refused`, t => {
    const error = t.throws(() => toSpec({ backend, ...options } as unknown as DeviceOptions), { message })
    t.like(error, { name: 'UblkError', kind: 'invalid' })
  })
}

test('what a lazy disk cannot be is said in one line', t => {
  const fetch = (): Uint8Array => new Uint8Array()
  const wrong: [Parameters<typeof lazy>[0], RegExp][] = [
    [{ size: '1M' } as unknown as Parameters<typeof lazy>[0], /needs a fetch function/],
    [{ size: 0, fetch }, /size 0 is too small/],
    [{ size: '1M', fetch, chunk: 5000 }, /chunk must be a power of two from 4K to 16M, not 5000/],
    [{ size: '1M', fetch, chunk: '32M' }, /chunk must be/],
    [{ size: '1M', fetch, cache: '' }, /path of the cache is empty/],
    [{ size: '1M', fetch, timeout: 0 }, /timeout must be a whole number from 1/],
    [{ size: '1M', fetch, identity: 'x'.repeat(1025) }, /longer than 1024 bytes/],
  ]
  wrong.push(
    [{ source: 'a.img', size: '1M' }, /a lazy disk with a source has no size/],
    [{ source: 'a.img', fetch }, /a lazy disk with a source has no fetch/],
    [{ source: 'ftp://example.org/a.img' }, /the source ftp:\/\/example.org\/a.img is no address/],
    [{ source: '' }, /the path of the source is empty/],
    [{ source: 'a.img', cacheMax: 'much' }, /cacheMax/],
    [{ source: 'a.img', fill: 'much' }, /fill/],
  )
  for (const [options, message] of wrong) t.throws(() => lazy(options), { instanceOf: UblkError, message })
  t.is(lazy({ size: '1M', fetch, cache: new URL('file:///tmp/cache') }).cache, '/tmp/cache')
})

test('only a native disk is observed', t => {
  const observe = (): void => {}
  const external = { kind: 'external', size: 4096 } as const
  t.throws(() => toSpec({ backend: { size: 4096, read: () => {} }, observe }, external), {
    message: /nothing to observe/,
  })
  t.throws(() => toSpec({ backend: memory('1M'), observe: 5 as unknown as Observe }), {
    message: /must be a function, not 5/,
  })
})
