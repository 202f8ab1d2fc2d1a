/** Which histories of concurrent reads and writes a disk may have, and what is said of those that it may not have. */
import { readFileSync } from 'node:fs'
import test from 'ava'
import type { UblkError } from 'ublk-ts'
import { type BlockValue, checkHistory, checkLinearizable, type DiskOperation } from 'ublk-ts/testing'
import { BlockContent } from '../../dist/testing/linearizable/block-content.js'
import { Load } from '../../dist/testing/linearizable/load.js'
import { Chance } from '../soak/chance.js'
import { isExplained, randomHistory } from '../support/histories.js'

type More = Partial<Pick<DiskOperation, 'block' | 'outcome' | 'by'>>

const write = (value: number, start: number, end: number, more: More = {}): DiskOperation => ({
  ...{ op: 'write', block: 5, values: [value], start, end },
  ...more,
})
const read = (value: BlockValue, start: number, end: number, more: More = {}): DiskOperation => ({
  ...{ op: 'read', block: 5, values: [value], start, end },
  ...more,
})
const zeroes = (start: number, end: number, more: More = {}): DiskOperation => ({
  ...{ op: 'zeroes', block: 5, blocks: 1, start, end },
  ...more,
})
const discard = (start: number, end: number): DiskOperation => ({
  ...{ op: 'discard', block: 5, blocks: 1, start, end },
})
const failed = { outcome: 'failed' } as const
const unknown = { outcome: 'unknown' } as const

const right: Record<string, DiskOperation[]> = {
  'a new disk has zeroes': [read(0, 0, 1)],
  'a read sees what was written before it': [write(1, 0, 1), write(2, 2, 3), read(2, 4, 5)],
  'a read during a write sees what was there, or what is written': [
    write(1, 0, 1),
    ...[write(2, 2, 9), read(1, 3, 4), read(2, 5, 6), read(2, 7, 8)],
  ],
  'of two concurrent writes either is the last': [
    write(1, 0, 5),
    write(2, 0, 5),
    read(1, 6, 7),
    read(1, 8, 9),
  ],
  'concurrent reads do not agree when a write takes effect': [
    write(1, 0, 1),
    ...[write(2, 2, 9), read(1, 3, 8), read(2, 4, 5)],
  ],
  'what ends when something begins is concurrent with it': [write(1, 0, 1), write(2, 1, 2), read(1, 2, 3)],
  'a failed write has no effect': [write(1, 0, 1), write(2, 2, 3, failed), read(1, 4, 5)],
  'a failed write has an effect': [write(1, 0, 1), write(2, 2, 3, failed), read(2, 4, 5)],
  'a failed write has an effect, but later': [
    write(1, 0, 1),
    ...[write(2, 2, 3, failed), read(1, 4, 5), write(3, 6, 7), read(3, 8, 9), read(2, 10, 11)],
  ],
  'a write that was never answered takes effect or not': [
    write(1, 0, 1),
    ...[write(2, 2, 2, unknown), read(1, 4, 5), write(3, 2, 2, unknown), read(3, 6, 7)],
  ],
  'a read that failed proves nothing': [write(1, 0, 1), read(7, 2, 3, failed)],
  'zeroes again and again': [
    ...[write(1, 0, 1), zeroes(2, 3), read(0, 4, 5), write(2, 6, 7), zeroes(8, 12)],
    ...[read(2, 9, 10), read(0, 10, 11), read(0, 13, 14)],
  ],
  'a discard zeroes or not': [
    ...[write(1, 0, 1), discard(2, 3), read(1, 4, 5), discard(6, 7), read(0, 8, 9)],
  ],
  'a write of several blocks is not there at once': [
    { op: 'write', block: 4, values: [1, 1], start: 0, end: 9 },
    { op: 'read', block: 4, values: [1, 0], start: 1, end: 2 },
    { op: 'read', block: 4, values: [1, 0], start: 3, end: 4 },
    { op: 'read', block: 4, values: [1, 1], start: 10, end: 11 },
  ],
}

for (const [name, history] of Object.entries(right)) {
  test(`a disk may do this: ${name}`, t => t.is(checkHistory(history), undefined))
}

const wrong: Record<string, [history: DiskOperation[], kind: string, explanation: string]> = {
  'a stale read': [
    [write(1, 0, 1, { by: 'writer 3' }), write(2, 2, 3), write(3, 2, 9), read(1, 4, 5), read(2, 6, 7)],
    'stale',
    `block 5: a read saw 1, although 2 had replaced it
  0.000 to 1.000 ms: write of 1 to block 5 by writer 3
  2.000 to 3.000 ms: write of 2 to block 5; begun when 1 was there
  4.000 to 5.000 ms: read of block 5, saw 1; begun when 2 was there`,
  ],
  'a lost write': [
    [write(1, 0, 1), read(1, 1.5, 1.6), write(2, 2, 3), read(1, 4, 5), read(1, 8, 9)],
    'stale',
    `block 5: a read saw 1, although 2 had replaced it; no read has seen 2
  0.000 to 1.000 ms: write of 1 to block 5
  2.000 to 3.000 ms: write of 2 to block 5; begun when 1 was there
  4.000 to 5.000 ms: read of block 5, saw 1; begun when 2 was there`,
  ],
  'a write that goes back in time': [
    [write(1, 0, 9), write(2, 0, 9), read(1, 1, 2), read(2, 3, 4), read(1, 5, 6)],
    'stale',
    `block 5: a read saw 1, although 2 had replaced it
  1.000 to 2.000 ms: read of block 5, saw 1
  3.000 to 4.000 ms: read of block 5, saw 2; begun when 1 was there
  5.000 to 6.000 ms: read of block 5, saw 1; begun when 2 was there`,
  ],
  'a read that misses the first write': [
    [write(1, 0, 1), read(0, 2, 3)],
    'stale',
    `block 5: a read saw zeroes, although 1 had replaced it; no read has seen 1
  0.000 to 1.000 ms: write of 1 to block 5
  2.000 to 3.000 ms: read of block 5, saw zeroes; begun when 1 was there`,
  ],
  'a failed write that was seen and is gone': [
    [write(1, 0, 1), write(2, 2, 3, failed), read(2, 4, 5), read(1, 6, 7)],
    'stale',
    `block 5: a read saw 1, although 2 had replaced it
  0.000 to 1.000 ms: write of 1 to block 5
  2.000 to 3.000 ms: write of 2 to block 5, which failed; begun when 1 was there
  4.000 to 5.000 ms: read of block 5, saw 2
  6.000 to 7.000 ms: read of block 5, saw 1; begun when 2 was there`,
  ],
  'a block that is torn': [
    [write(1, 0, 1), write(2, 2, 5), read('1 in bytes 0 to 255, 2 in bytes 256 to 511', 3, 4)],
    'unwritten',
    `block 5: a read saw 1 in bytes 0 to 255, 2 in bytes 256 to 511
  2.000 to 5.000 ms: write of 2 to block 5
  3.000 to 4.000 ms: read of block 5, saw that`,
  ],
  'a value from nowhere': [
    [write(1, 0, 1), read(7, 2, 3)],
    'unwritten',
    `block 5: a read saw 7, which nobody wrote
  2.000 to 3.000 ms: read of block 5, saw 7`,
  ],
  'a value from another block': [
    [write(7, 0, 1, { block: 8 }), read(7, 2, 3)],
    'unwritten',
    `block 5: a read saw 7, which was written to block 8, and not to block 5
  2.000 to 3.000 ms: read of block 5, saw 7`,
  ],
  'a value from the future': [
    [read(7, 0, 1), write(7, 2, 3)],
    'future',
    `block 5: a read saw 7, which was written only later
  0.000 to 1.000 ms: read of block 5, saw 7
  2.000 to 3.000 ms: write of 7 to block 5`,
  ],
  'zeroes that are gone': [
    [write(9, 0, 1), write(1, 2, 3), zeroes(4, 5), read(0, 6, 7), zeroes(8, 9), read(1, 10, 11)],
    'disorder',
    `block 5: a read saw 1, and no order of these operations explains it
  2.000 to 3.000 ms: write of 1 to block 5
  4.000 to 5.000 ms: zeroes to block 5
  8.000 to 9.000 ms: zeroes to block 5
  10.000 to 11.000 ms: read of block 5, saw 1`,
  ],
  'a block of several': [
    [
      { op: 'write', block: 4, values: [1, 1, 1], start: 0, end: 1 },
      { op: 'write', block: 3, values: [2, 2, 2], start: 2, end: 3 },
      { op: 'read', block: 4, values: [2, 1, 1], start: 4, end: 5 },
    ],
    'stale',
    `block 5: a read saw 1, although 2 had replaced it; no read has seen 2
  0.000 to 1.000 ms: write of 1 to blocks 4 to 6
  2.000 to 3.000 ms: write of 2 to blocks 3 to 5; begun when 1 was there
  4.000 to 5.000 ms: read of blocks 4 to 6, saw 1 in block 5; begun when 2 was there`,
  ],
}

for (const [name, [history, kind, explanation]] of Object.entries(wrong)) {
  test(`a disk must not do this: ${name}`, t => {
    const violation = checkHistory(history)
    t.is(violation?.explanation, explanation)
    t.is(violation?.kind as string, kind)
  })
}

for (const withZeroes of [false, true]) {
  test(`small histories are judged as by trying all orders${withZeroes ? ', with zeroes and failures' : ''}`, t => {
    const judged = { right: 0, wrong: 0 }
    for (let seed = 0; seed < 10_000; seed++) {
      const { history, initial } = randomHistory(new Chance(seed), withZeroes)
      const violation = checkHistory(history, () => initial)
      if (isExplained(history, initial) !== (violation === undefined)) {
        t.fail(`seed ${seed}: ${JSON.stringify({ initial, history, violation })}`)
        return
      }
      judged[violation ? 'wrong' : 'right']++
      if (!violation || violation.kind === 'unwritten') continue
      // What is shown is wrong without the rest, and so is all that was answered until then.
      t.false(isExplained(violation.operations, initial), `seed ${seed}`)
      const until = history.filter(({ end = 0 }) => end < (violation.read.end ?? 0))
      t.true(
        isExplained(
          history.map(each => (until.includes(each) ? each : pending(each))),
          initial,
        ),
      )
    }
    t.true(judged.right > 3000 && judged.wrong > 1000, JSON.stringify(judged))
  })
}

/** As if it had not been answered yet. */
function pending(operation: DiskOperation): DiskOperation {
  return { ...operation, outcome: 'unknown' }
}

test('of several violations the first one is reported, and long histories are judged', t => {
  const history: DiskOperation[] = []
  for (let n = 1; n <= 50_000; n++) {
    history.push(write(n, 4 * n, 4 * n + 1), read(n, 4 * n + 2, 4 * n + 3))
  }
  t.is(checkHistory(history), undefined)
  const spoiled = history.map(each => {
    const isStale = each.op === 'read' && (each.start === 4 * 40_000 + 2 || each.start === 4 * 45_000 + 2)
    return isStale ? read(30_000, each.start, each.start + 1) : each
  })
  const violation = checkHistory(spoiled)
  t.is(violation?.read.start, 4 * 40_000 + 2)
  t.is(violation?.operations.length, 3)
})

test('the example of checkHistory prints what it says', t => {
  const source = readFileSync(new URL('../../ts/testing/linearizable/history.ts', import.meta.url), 'utf8')
  const [, example = ''] = /```ts\n(.*?)```/s.exec(source) ?? []
  const lines = example.split('\n').map(line => line.replace(/^ \* ?/, ''))
  const printed: unknown[] = []
  const run = new Function('checkHistory', 'console', lines.join('\n'))
  run(checkHistory, { log: (text: unknown) => printed.push(text) })
  const said = lines.filter(line => line.startsWith('// ')).map(line => line.slice(3))
  t.deepEqual(printed, [said.join('\n')])
})

test('a history that makes no sense is refused', t => {
  for (const [operation, message] of [
    [{ ...read(0, 1, 2), op: 'seek' }, "has no op: 'seek'"],
    [{ ...read(0, 1, 2), block: -1 }, 'has no block: -1'],
    [{ op: 'zeroes', block: 0, start: 0, end: 1 }, 'has no blocks'],
    [read(0, Number.NaN, 2), 'has no start: NaN'],
    [read(0, 2, 1), 'was answered, so it ends after its start, and not at 1'],
    [{ ...read(0, 2, 3), outcome: 'fine' }, "has no outcome: 'fine'"],
  ] as [DiskOperation, string][]) {
    const error = t.throws<UblkError>(() => checkHistory([read(0, 0, 1), operation]))
    t.deepEqual([error?.kind, error?.message], ['invalid', `operation 1 of the history ${message}`])
  }
})

test('what a block holds is recognized', t => {
  const content = new BlockContent(512, 77)
  const blocks = (id: number, first = 5): Uint8Array => {
    const bytes = new Uint8Array(1024)
    content.fill(new DataView(bytes.buffer), first, id)
    return bytes
  }
  const inBlock5 = (bytes: Uint8Array): BlockValue =>
    content.read(new DataView(bytes.buffer, bytes.byteOffset, 512), 5)
  const mixed = (...parts: Uint8Array[]): Uint8Array => Uint8Array.from(Buffer.concat(parts))
  t.is(inBlock5(blocks(17)), 17)
  t.is(inBlock5(blocks(17, 4).subarray(512)), 17)
  t.is(inBlock5(new Uint8Array(512)), 0)
  t.is(inBlock5(blocks(17).subarray(512)), 'what 17 wrote to block 6')
  t.is(
    inBlock5(mixed(blocks(17).subarray(0, 256), blocks(18).subarray(256, 512))),
    '17 in bytes 0 to 255, 18 in bytes 256 to 511',
  )
  t.is(
    inBlock5(mixed(blocks(17).subarray(0, 8), new Uint8Array(504))),
    '17 in bytes 0 to 7, zeroes in bytes 8 to 511',
  )
  t.is(
    inBlock5(mixed(blocks(17).subarray(8, 512), new Uint8Array(8)))
      .toString()
      .includes('nobody'),
    true,
  )
  const earlier = new Uint8Array(512)
  new BlockContent(512, 78).fill(new DataView(earlier.buffer), 5, 17)
  t.true(inBlock5(earlier).toString().startsWith('bytes that nobody wrote'))
})

test('a seed determines what a writer does, within its blocks', t => {
  for (const blocks of [1, 3, 24]) {
    const [one, same, other] = [new Load(blocks, 7), new Load(blocks, 7), new Load(blocks, 8)]
    const of = (load: Load): unknown[] => Array.from({ length: 500 }, () => load.next())
    const done = of(one) as { op: string; block: number; count: number }[]
    t.deepEqual(done, of(same) as typeof done)
    t.notDeepEqual(done, of(other) as typeof done)
    t.true(done.every(({ block, count }) => block >= 0 && count >= 1 && block + count <= blocks))
    t.is(new Set(done.map(({ op }) => op)).size, 3)
  }
})

test('a check that makes no sense is refused before anything is read or written', async t => {
  for (const [path, options, kind, message] of [
    ['/dev/null', {}, 'invalid', '/dev/null is not a block device'],
    [5, {}, 'invalid', 'the path of a disk must be text, not 5'],
    ['/dev/null', { second: 1 }, 'invalid', "checkLinearizable() has no option 'second'"],
    ['/dev/null', { seconds: 0 }, 'invalid', 'seconds must be a number above 0, up to 3600, not 0'],
    ['/dev/null', { writers: 65 }, 'invalid', 'writers must be a whole number from 1 to 64, not 65'],
    ['/dev/null', { seed: 1.5 }, 'invalid', 'seed must be a whole number from 0 to 2147483647, not 1.5'],
    ['/dev/none', {}, 'not-found', /^there is no disk \/dev\/none: /],
  ] as const) {
    const error = await t.throwsAsync<UblkError>(checkLinearizable(path as string, options as object))
    t.is(error?.kind, kind)
    if (typeof message === 'string') t.is(error?.message, message)
    else t.regex(error?.message ?? '', message)
  }
})
