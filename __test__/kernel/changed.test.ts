// processors: 1 and 2
/**
 * Checkpoints and changed blocks: what fio writes is named, whatever server has the disk.
 */
import { createHash } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import type { ExecutionContext } from 'ava'
import { type ChangedRanges, file, memory, tracked, UblkDevice } from 'ublk-ts'
import { Detached, leaveNoServerBehind } from '../support/detached.js'
import { kernelHas } from '../support/modes.js'
import { onTwo, test } from '../support/processors.js'
import { result, run, sh } from '../support/program.js'
import { until } from '../support/server.js'

leaveNoServerBehind(test)

const MIB = 2 ** 20
const SIZE = 64 * MIB
const BLOCK = 4096
const SILENT = { status: 0, signal: null, stdout: '', stderr: '' }
const DIR = mkdtempSync('/dev/shm/changed-')
const [IMAGE, MAP] = [`${DIR}/a.img`, `${DIR}/a.changes`]

test.beforeEach('a new image without a map', () =>
  sh('cd "$1"; rm -f *; truncate -s "$2" a.img', DIR, `${SIZE}`),
)
test.after.always(() => rmSync(DIR, { recursive: true }))

/** A checked load on a disk. */
async function load(path: string, words = '--rw=randwrite --size=16m --offset=8m'): Promise<string> {
  return await sh(
    `cd /tmp; exec fio --name=x --filename="$1" ${words} --direct=1 --ioengine=libaio --bsrange=512-64k --bs_unaligned=0 \\
       --blockalign=4k --iodepth=32 --io_size=8m --verify=crc32c --verify_fatal=1 --verify_state_save=0 --output-format=terse`,
    path,
  )
}

/** The numbers of the blocks in which a file differs from what it was. */
function differing(before: Buffer, after: Buffer): number[] {
  const blocks: number[] = []
  for (let at = 0; at < after.length; at += BLOCK) {
    if (!before.subarray(at, at + BLOCK).equals(after.subarray(at, at + BLOCK))) blocks.push(at / BLOCK)
  }
  return blocks
}

/** Checks that changes name all blocks that differ, and, with `most`, not many others. */
function covers(t: ExecutionContext, changes: ChangedRanges, before: Buffer, most?: number): void {
  const after = readFileSync(IMAGE)
  const named = new Set<number>()
  let [end, bytes] = [-1, 0]
  for (const { offset, length } of changes.ranges) {
    t.true(offset > end && offset % BLOCK === 0 && length % BLOCK === 0 && length > 0)
    for (let at = offset; at < offset + length; at += BLOCK) named.add(at / BLOCK)
    end = offset + length
    bytes += length
  }
  t.is(changes.bytes, bytes)
  const changed = differing(before, after)
  t.deepEqual(
    changed.filter(block => !named.has(block)),
    [],
    'changed, and not named',
  )
  t.true(changed.length > 0)
  if (most !== undefined) t.true(named.size <= most, `${named.size} are named, ${changed.length} differ`)
}

const modes = [
  { transport: 'per-io', copy: 'copy' },
  { transport: 'per-io', copy: 'zero' },
  { transport: 'batch', copy: 'zero' },
] as const

for (const { transport, copy } of modes.filter(kernelHas)) {
  onTwo(`every block that is written is named, on two queues: ${transport}, ${copy}`, async t => {
    await using disk = await UblkDevice.create({
      backend: tracked(file(IMAGE), { map: MAP }),
      queues: 2,
      transport,
      copy,
    })
    await sh('taskset -c 0 dd if=/dev/urandom of="$1" bs=1M count=2 oflag=direct status=none', disk.path)
    await disk.checkpoint('first')
    t.deepEqual((await disk.changed({ since: 'first' })).ranges, [])
    const first = readFileSync(IMAGE)
    const busy = Promise.all([load(disk.path), load(disk.path, '--rw=write --size=8m --offset=32m')])
    // Under load, since a checkpoint waits for nobody.
    for (const name of ['second', 'third', 'fourth']) await disk.checkpoint(name)
    await busy
    await sh('blkdiscard -o 48M -l 1M "$1"; blkdiscard -z -o 50M -l 1M "$1"', disk.path)
    const changes = await disk.changed({ since: 'first' })
    covers(t, changes, first, 26 * (MIB / BLOCK))
    t.true(changes.known)
    t.deepEqual(changes.ranges.slice(-2), [
      { offset: 48 * MIB, length: MIB },
      { offset: 50 * MIB, length: MIB },
    ])
    await disk.checkpoint('last')
    const before = readFileSync(IMAGE)
    await sh(
      `for queue in 0 1; do
         taskset -c $queue dd if=/dev/urandom of="$1" bs=512 seek=$((queue * 100 + 1)) count=9 oflag=direct status=none
       done`,
      disk.path,
    )
    const last = await disk.changed({ since: 'last' })
    covers(t, last, before)
    t.deepEqual(last.ranges, [
      { offset: 0, length: 2 * BLOCK },
      { offset: 12 * BLOCK, length: 2 * BLOCK },
    ])
    t.deepEqual(
      (await disk.checkpoints()).map(({ name, known }) => [name, known]),
      ['first', 'second', 'third', 'fourth', 'last'].map(name => [name, true]),
    )
    await disk.removeCheckpoint('last')
    covers(t, await disk.changed({ since: 'fourth' }), before)
    const error = await t.throwsAsync(disk.changed({ since: 'last' }))
    t.like(error, { kind: 'not-found', hint: 'there are first, second, third, fourth' })
  })
}

const changed = async (id: number, since: string): Promise<ChangedRanges> =>
  JSON.parse((await run('changed', `${id}`, '--since', since, '--json')).stdout)

onTwo(
  'checkpoints pass from server to server, and a server that is killed leaves everything changed',
  async t => {
    const disk = await Detached.create(`--file ${IMAGE} --track ${MAP} --queues 2 --recovery reissue`)
    const id = `${disk.id}`
    t.deepEqual(await run('checkpoint', id, 'monday'), SILENT)
    const monday = readFileSync(IMAGE)
    await load(disk.path)
    covers(t, await changed(disk.id, 'monday'), monday)

    // Over an upgrade under load, where the kernel has that.
    const upgrading = load(disk.path, '--rw=randwrite --size=8m --offset=40m --rate=4m')
    const upgraded = await run('upgrade', id)
    await upgrading
    t.is(upgraded.status, 0, upgraded.stderr)
    const after = await changed(disk.id, 'monday')
    covers(t, after, monday, 26 * (MIB / BLOCK))
    t.true(after.known)

    // Over an end.
    t.deepEqual(await run('checkpoint', id, 'tuesday'), SILENT)
    t.deepEqual(await run('delete', id), SILENT)
    const again = await Detached.create(`--file ${IMAGE} --track ${MAP} --queues 2 --recovery reissue`)
    covers(t, await changed(again.id, 'monday'), monday, 26 * (MIB / BLOCK))
    t.is((await run('changed', `${again.id}`, '--since', 'tuesday')).stdout, '')
    t.deepEqual(await changed(again.id, 'tuesday'), {
      since: 'tuesday',
      size: SIZE,
      known: true,
      bytes: 0,
      ranges: [],
    })

    // Over SIGKILL.
    const pid = (await (await UblkDevice.open(again.id)).info()).pid
    process.kill(pid, 'SIGKILL')
    await until(async () => (await (await UblkDevice.open(again.id)).info()).state === 'quiesced', 'it waits')
    t.is((await run('recover', `${again.id}`, '--detach')).status, 0)
    const killed = await changed(again.id, 'tuesday')
    t.deepEqual(killed, {
      since: 'tuesday',
      size: SIZE,
      known: false,
      bytes: SIZE,
      ranges: [{ offset: 0, length: SIZE }],
    })
    t.is((await run('changed', `${again.id}`, '--since', 'monday')).stdout, `0+${SIZE}\n`)
    t.deepEqual(await run('checkpoint', `${again.id}`, 'wednesday'), SILENT)
    t.is(
      (await run('checkpoints', '-n', '-o', 'name,known', `${again.id}`)).stdout.replaceAll(/ +/g, ' '),
      'monday 0\ntuesday 0\nwednesday 1\n',
    )
    t.deepEqual(await run('checkpoint', '--remove', `${again.id}`, 'tuesday'), SILENT)
    t.is((await run('changed', `${again.id}`, '--since', 'wednesday')).stdout, '')
    t.deepEqual(await run('delete', `${again.id}`), SILENT)
  },
)

test('a disk that was changed without its map counts as changed', async t => {
  const backend = tracked(file(IMAGE), { map: MAP })
  {
    await using disk = await UblkDevice.create({ backend })
    await disk.checkpoint('before')
  }
  {
    await using disk = await UblkDevice.create({ backend: file(IMAGE) })
    await sh('dd if=/dev/urandom of="$1" bs=4k count=1 oflag=direct status=none', disk.path)
  }
  await using disk = await UblkDevice.create({ backend })
  t.like(await disk.changed({ since: 'before' }), { known: false, bytes: SIZE })
})

test('the added part of a disk counts as changed', async t => {
  await using disk = await UblkDevice.create({ backend: tracked(memory('16M'), { map: MAP }) })
  await disk.checkpoint('small')
  await disk.resize('32M').catch(error => t.like(error, { kind: 'unsupported' }))
  const ranges = disk.size === 32 * MIB ? [{ offset: 16 * MIB, length: 16 * MIB }] : []
  t.deepEqual((await disk.changed({ since: 'small' })).ranges, ranges)
})

test('what cannot be used as a map, and a disk without one, are refused in one line', async t => {
  const refused = async (words: string[], message: RegExp): Promise<void> => {
    const { status, stderr } = await run(...words)
    t.not(status, 0)
    t.regex(stderr, message)
    t.is(stderr.trim().split('\n').length, 1, stderr)
  }
  const create = ['create', '--file', IMAGE, '--track', MAP]
  const disk = await Detached.create(`--file ${IMAGE} --track ${MAP}`)
  await sh('truncate -s "$2" "$1/b.img"', DIR, `${SIZE}`)
  await refused(['create', '--file', `${DIR}/b.img`, '--track', MAP], /a\.changes is in use: .*ublk-ts/)
  await refused(['changed', `${disk.id}`, '--since', 'x'], /there is no checkpoint x; make one first/)
  await refused(['checkpoint', `${disk.id}`, 'a\nb'], /is no name of a checkpoint/)
  await run('checkpoint', `${disk.id}`, 'x')
  await refused(['checkpoint', `${disk.id}`, 'x'], /there is a checkpoint x already/)
  t.deepEqual(await run('delete', `${disk.id}`), SILENT)
  const map = readFileSync(MAP)
  const sum = (): string => createHash('sha256').update(readFileSync(MAP)).digest('hex')
  for (const [bytes, message] of [
    [map.subarray(0, 300), /a\.changes was truncated/],
    [Buffer.from(map).fill(9, 16, 17), /has version 9, and this ublk-ts knows version 1/],
    [Buffer.alloc(map.length, 'x'), /is no change map/],
  ] as const) {
    writeFileSync(MAP, bytes)
    const before = sum()
    await refused(create, message)
    t.is(sum(), before)
  }
  writeFileSync(MAP, map)
  await sh('truncate -s 1M "$1/b.img"', DIR)
  await refused(
    ['create', '--file', `${DIR}/b.img`, '--track', MAP],
    /is of a disk of \d+ bytes, and this one has 1048576/,
  )
  await using plain = await UblkDevice.create({ backend: memory('16M') })
  await t.throwsAsync(plain.checkpoint('x'), { message: /the disk does not record its changes/ })
  await refused(['changed', `${plain.id}`, '--since', 'x'], /nobody can be asked|does not record its changes/)
  void result
})
