import { createRequire } from 'node:module'
import test, { type ExecutionContext } from 'ava'
import { nearest } from '../../dist/check.js'
import {
  defineBackend,
  file,
  lazy,
  memory,
  nullDisk,
  overlay,
  UblkDevice,
  UblkError,
  worker,
} from '../../dist/index.js'
import { propertiesOf } from '../../dist/runtime/backend-properties.js'
import { Odd, SEED, share } from '../support/odd.js'

const native = createRequire(import.meta.url)('../../binding/index.cjs') as Record<
  string,
  (...given: unknown[]) => unknown
>

// Calls with wrong types, as from JavaScript. All are refused before a driver is needed.
const create = UblkDevice.create as (...given: unknown[]) => Promise<unknown>
const recover = UblkDevice.recover as (...given: unknown[]) => Promise<unknown>
const open = UblkDevice.open as (...given: unknown[]) => Promise<unknown>
const fetch = (): Uint8Array => new Uint8Array()
const disk = { size: '1M', read: (): void => {} }

/** Checks for an `invalid` error that says what is wrong and what would be right. */
async function refused(
  t: ExecutionContext,
  call: () => unknown,
  message: RegExp,
  hint?: RegExp,
): Promise<void> {
  const error = await t.throwsAsync<UblkError>(async () => await call(), { instanceOf: UblkError, message })
  t.is(error?.kind, 'invalid', error?.message)
  t.regex(error?.code ?? '', /^ERR_(INVALID_ARG_(TYPE|VALUE)|OUT_OF_RANGE)$/, error?.message)
  if (hint) t.regex(error?.hint ?? '', hint)
}

const wrong: [string, () => unknown, RegExp, RegExp?][] = [
  [
    'create without arguments',
    () => create(),
    /create\(\) takes an object of options, not undefined/,
    /backend, /,
  ],
  ['create with null', () => create(null), /not null/],
  ['create with a backend in its place', () => create('16M'), /not '16M'/],
  ['create with a list', () => create([]), /not an array/],
  [
    'create without a backend',
    () => create({}),
    /backend must be a backend, not undefined/,
    /memory\('16M'\)/,
  ],
  [
    'create with a size as backend',
    () => create({ backend: '16M' }),
    /backend must be a backend, not '16M'/,
    /memory/,
  ],
  ['create with a function as backend', () => create({ backend: () => {} }), /not a function/],
  ['create with a backend that is null', () => create({ backend: null }), /not null/],
  [
    'create with queue',
    () => create({ backend: memory('1M'), queue: 2 }),
    /no option 'queue'/,
    /did you mean queues\?/,
  ],
  ['create with blocksize', () => create({ backend: disk, blocksize: 4096 }), /'blocksize'/, /blockSize/],
  ['create with onReady', () => create({ backend: disk, onReady: 1 }), /'onReady'/],
  ['create with toString', () => create({ backend: disk, toString: 1 }), /'toString'/],
  [
    'create with start as text',
    () => create({ backend: disk, start: 'no' }),
    /start must be true or false, not 'no'/,
  ],
  [
    'create with no signal',
    () => create({ backend: disk, signal: {} }),
    /signal must be an AbortSignal, not an object/,
  ],
  [
    'create with a record of nothing',
    () => create({ backend: disk, record: 'yes' }),
    /record takes an object/,
  ],
  [
    'create with a record of more',
    () => create({ backend: disk, record: { logs: 'x' } }),
    /'logs'/,
    /did you mean log\?/,
  ],
  [
    'create with an odd id',
    () => create({ backend: memory('1M'), id: 5n }),
    /id must be a whole number.*not 5n/,
  ],
  ['create with a symbol', () => create({ backend: memory('1M'), transport: Symbol('x') }), /not a symbol/],
  [
    'a disk with wirte',
    () => create({ backend: { ...disk, wirte() {} } }),
    /'wirte'/,
    /did you mean write\?/,
  ],
  [
    'a disk with writezeros',
    () => create({ backend: { ...disk, writezeros() {} } }),
    /'writezeros'/,
    /writeZeroes/,
  ],
  [
    'a disk with blocksize',
    () => create({ backend: { ...disk, blocksize: 512 } }),
    /'blocksize'/,
    /blockSize/,
  ],
  ['a disk without read', () => create({ backend: { size: 512 } }), /cannot read/],
  [
    'a disk whose write is text',
    () => create({ backend: { ...disk, write: 'w' } }),
    /write is 'w', not a function/,
  ],
  [
    'a disk without a size',
    () => create({ backend: { read() {} } }),
    /size must be a number of bytes or text, not undefined/,
  ],
  ['a disk whose size is a bigint', () => create({ backend: { ...disk, size: 512n } }), /not 512n/],
  [
    'a disk with blocks of 100',
    () => create({ backend: { ...disk, blockSize: 100 } }),
    /block size must be 512.*not 100/,
  ],
  [
    'a disk with operations as text',
    () => create({ backend: { size: 512, process() {}, operations: 'write' } }),
    /not a list/,
  ],
  [
    'a disk with odd operations',
    () => create({ backend: { size: 512, process() {}, operations: ['wirte'] } }),
    /'wirte'/,
    /write/,
  ],
  ['recover without a number', () => recover(), /id of a device must be a whole number.*not undefined/],
  ['recover without options', () => recover(0), /recover\(\) takes an object of options, not undefined/],
  [
    'recover with queues',
    () => recover(0, { backend: disk, queues: 2 }),
    /no option 'queues'/,
    /keeps what it was made with/,
  ],
  [
    'recover with onReddy',
    () => recover(0, { backend: disk, onReddy() {} }),
    /'onReddy'/,
    /did you mean onReady\?/,
  ],
  ['open without a number', () => open(), /not undefined/],
  ['open of another disk', () => open('/dev/sda'), /'\/dev\/sda' is not a ublk device/, /name of a disk/],
  [
    'create with a name of two words',
    () => create({ backend: disk, name: 'a b' }),
    /name of a disk cannot be 'a b'/,
  ],
  ...[2 ** 32, 2 ** 20, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 0n, null, [0]].flatMap(
    (id): [string, () => unknown, RegExp][] => [
      [`open ${typeof id} ${id}`, () => open(id), /id of a device must be a whole number from 0 to 1048575/],
      [`recover ${typeof id} ${id}`, () => recover(id, { backend: disk }), /from 0 to 1048575/],
    ],
  ),
  ['memory with direct', () => memory('1M', { direct: true } as never), /memory\(\) has no option 'direct'/],
  ['memory with null', () => memory('1M', null as never), /takes an object of options, not null/],
  [
    'memory of nothing',
    () => memory(undefined as never),
    /size must be a number of bytes or text, not undefined/,
  ],
  ['memory of an object', () => memory({} as never), /not an object/],
  ['null disk of a symbol', () => nullDisk(Symbol('x') as never), /not a symbol/],
  ['a file with dierct', () => file('a', { dierct: true } as never), /'dierct'/, /did you mean direct\?/],
  ['a file with direct as text', () => file('a', { direct: 'yes' } as never), /direct must be true or false/],
  ['a file of a number', () => file(5 as never), /path of the file must be text or a file: URL, not 5/],
  ['a file on the web', () => file(new URL('https://example.org/')), /path of the file is 'https:/],
  ['a file with a zero byte', () => file('a\0b'), /zero byte/],
  ['an overlay of nothing', () => overlay(undefined as never), /overlay\(\) takes a backend, not undefined/],
  ['an overlay without a base', () => overlay(null), /an overlay without a base needs an upper/],
  [
    'lazy without options',
    () => lazy(undefined as never),
    /lazy\(\) takes an object of options, not undefined/,
  ],
  ['lazy with fetsch', () => lazy({ size: 1, fetsch: fetch } as never), /'fetsch'/, /did you mean fetch\?/],
  ['lazy with chunks', () => lazy({ size: 1, fetch, chunks: 1 } as never), /'chunks'/, /chunk/],
  [
    'lazy with an identity of its own',
    () => lazy({ size: 512, fetch, identity: 5 } as never),
    /identity must be text, not 5/,
  ],
  ['worker without a url', () => worker(undefined as never), /undefined is no URL/],
  ['worker with a path', () => worker('./disk.js'), /'\.\/disk\.js' is no URL/, /import\.meta\.url/],
  ['defineBackend of an object', () => defineBackend({} as never), /must be a function, not an object/],
]
for (const [name, call, message, hint] of wrong) {
  test(`${name}: refused in words`, async t => {
    await refused(t, call, message, hint)
  })
}

test('what a backend has besides is its own matter', t => {
  class Disk {
    size = '1M'
    reads = 0
    #cache = new Map()
    read(): void {
      this.#cache.clear()
    }
    write(): void {}
    reset(): void {}
    writeAll(): void {}
    sync(): void {}
    load(): void {}
    get closed(): boolean {
      throw new Error('not asked')
    }
  }
  t.like(propertiesOf(new Disk() as never), { size: 2 ** 20, blockSize: 512, write: true, flush: false })
})

test('the limits of a backend are read in bytes, and impossible ones are named', t => {
  const read = () => {}
  const limitsOf = (limits: unknown) =>
    propertiesOf({ size: '1M', read, blockSize: 4096, limits } as never).limits
  t.is(limitsOf(undefined), undefined)
  const limits = {
    chunk: '64K',
    optimalIo: 2 ** 20,
    maxSegments: 4,
    maxSegmentSize: '8K',
    segmentBoundary: '4G',
  }
  t.deepEqual(limitsOf(limits), {
    chunk: 65536,
    optimalIo: 2 ** 20,
    maxSegments: 4,
    maxSegmentSize: 8192,
    segmentBoundary: 2 ** 32,
  })
  const wrong: [limits: unknown, message: string, hint?: RegExp][] = [
    [7, "the backend's limits are 7, not an object", /chunk/],
    [{ chunks: 4096 }, "the backend's limits have no 'chunks'", /did you mean chunk\?/],
    [{ chunk: 6144 }, "the backend's chunk must be a multiple of the block size 4096, not 6144"],
    [{ chunk: 0 }, "the backend's chunk must be from 4096 to 2147483648, not 0"],
    [{ optimalIo: '1G' }, "the backend's optimalIo must be from 4096 to 268435456, not 1G"],
    [{ maxSegments: 65536 }, "the backend's maxSegments must be from 1 to 65535, not 65536"],
    [{ maxSegmentSize: 512 }, "the backend's maxSegmentSize must be from 4096 to 4294967295, not 512"],
    [{ segmentBoundary: 12288 }, "the backend's segmentBoundary must be a power of two, not 12288"],
  ]
  for (const [limits, message, hint] of wrong) {
    const error = t.throws(() => limitsOf(limits), { instanceOf: UblkError, message })
    if (hint) t.regex(error?.hint ?? '', hint)
  }
  const thrown = {
    get chunk() {
      throw new Error('odd')
    },
  }
  t.throws(() => limitsOf(thrown), { message: /^the backend's properties cannot be read: / })
})

test('near names are found, far ones are not', t => {
  const names = ['read', 'write', 'flush', 'discard', 'writeZeroes', 'resize', 'close']
  t.is(nearest('wirte', names), 'write')
  t.is(nearest('Flush', names), 'flush')
  t.is(nearest('write_zeros', names), 'writeZeroes')
  t.is(nearest('discrad', names), 'discard')
  for (const name of ['sync', 'trim', 'load', 'process', '', 'x'.repeat(1e6)])
    t.is(nearest(name, names), undefined)
})

test(`whatever a backend is, or has for properties, it is one or an error says why not, seed ${SEED}`, t => {
  const odd = new Odd(SEED)
  for (let i = share(5000, 0.1); i > 0; i--) {
    const { chance } = odd
    const value = (): unknown => odd.value()
    const backend = chance.of<() => unknown>([
      value,
      () => ({ size: value(), read: () => {} }),
      () => ({ size: 512, read: value() }),
      () => ({ size: 512, read: () => {}, blockSize: value(), write: value() }),
      () => ({ size: 512, process: value(), operations: value() }),
      () => ({ size: 512, read: () => {}, limits: value() }),
      () => ({ size: 512, read: () => {}, limits: { chunk: value(), maxSegments: value() } }),
      () => ({ size: 512, process: () => {}, operations: [value()] }),
      () => ({
        size: 512,
        read: () => {},
        get write() {
          throw value()
        },
      }),
    ])()
    try {
      propertiesOf(backend as never)
    } catch (error) {
      if (!(error instanceof UblkError) || !['invalid', 'backend'].includes(error.kind)) t.fail(String(i))
    }
  }
  t.pass()
})

test('a creation that was aborted rejects with the reason, whatever that is', async t => {
  const odd = new Odd(SEED)
  for (let i = share(500, 0.01); i > 0; i--) {
    const reason = odd.value() ?? 'none'
    const signal = AbortSignal.abort(reason)
    const [outcome] = await Promise.allSettled([create({ backend: memory('1M'), signal })])
    if (outcome?.status !== 'rejected' || !Object.is(outcome.reason, reason)) t.fail(String(i))
  }
  t.pass()
})

test('the native part cuts no number to size', async t => {
  for (const number of [2 ** 32, 2 ** 53, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY]) {
    const message = /^id .* is not a possible whole number$/
    for (const name of ['openDevice', 'users', 'seenUsers', 'rouseServer'])
      await t.throwsAsync(async () => await native[name]?.(number), { message })
    const cancel = new (native['Cancel'] as unknown as new () => object)()
    const end = { force: true, delete: true, patience: 0 }
    await t.throwsAsync(async () => await native['endDevice']?.(number, end, cancel), { message })
    await t.throwsAsync(async () => await native['claimToShrink']?.(number, cancel), { message })
  }
  t.throws(() => native['nextBatch']?.(2 ** 32, 0), {
    message: /queue 4294967296 is not a possible whole number/,
  })
})
