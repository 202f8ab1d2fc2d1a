import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import {
  type CrashState,
  file,
  memory,
  powercut,
  type RecordedRequest,
  type ServedDevice,
  UblkDevice,
} from 'ublk-ts'
import { firstFailure } from '../support/crash.js'
import { leaveNothingBehind } from '../support/devices.js'
import { sh } from '../support/program.js'
import { until } from '../support/server.js'

const DIR = mkdtempSync('/dev/shm/powercut-')
const MOUNT = join(DIR, 'mnt')
leaveNothingBehind(test)
test.before(async () => void (await sh('mkdir "$1"', MOUNT)))
test.after.always(async () => {
  await sh('umount "$1" 2>/dev/null || :', MOUNT)
  rmSync(DIR, { recursive: true, force: true })
})

/** A shell script that keeps number `n` in a file of the directory $1. */
type Program = (n: number) => string

const DURABLE: Program = n => `echo ${n} >"$1/new"; sync "$1/new"; mv "$1/new" "$1/number"; sync "$1"`

const WITHOUT_THE_DIRECTORY: Program = n => `echo ${n} >"$1/new"; sync "$1/new"; mv "$1/new" "$1/number"`

/** A disk on which a program has kept some numbers, with a mark for each one that it promised. */
async function recorded(program: Program): Promise<ServedDevice> {
  const disk = await UblkDevice.create({ backend: powercut({ size: '16M', seed: 1 }) })
  await sh(
    'mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 "$1"; mount "$1" "$2"; echo 0 >"$2/number"; sync',
    disk.path,
    MOUNT,
  )
  disk.mark('0')
  for (let n = 1; n <= 2; n++) {
    await sh(program(n), MOUNT)
    disk.mark(String(n))
  }
  await sh('umount "$1"', MOUNT)
  return disk
}

/** The file system is whole, and the number is at least the one that was promised last. */
async function check(state: CrashState): Promise<void> {
  await using crashed = await state.disk()
  const script =
    'mount "$1" "$2"; cat "$2/number"; umount "$2"; e2fsck -fn "$1" >/dev/null 2>&1 || echo damaged'
  const found = (await sh(script, crashed.path, MOUNT)).trim()
  const promised = Number(state.marks.at(-1))
  if (found !== String(promised) && found !== String(promised + 1)) {
    throw new Error(`${found} is there after ${promised}`)
  }
}

test('ext4 and a program that syncs what it has to survive every power cut', async t => {
  await using disk = await recorded(DURABLE)
  let states = 0
  for await (const state of disk.crashStates({ budget: 15, from: '0' })) {
    await t.notThrowsAsync(check(state), state.id)
    states++
  }
  t.is(states, 15)
})

test('a rename that is not made durable is found, and what matters is one or a few writes', async t => {
  await using disk = await recorded(WITHOUT_THE_DIRECTORY)
  const options = { budget: 500, from: '1' }
  const found = await firstFailure(disk, check, options)
  if (!found) return t.fail('no state lacks the rename because of a loss')
  const { state, least, tried } = found
  t.log(`found in ${tried} states: ${JSON.stringify(least.lost)}`)
  const writes = new Set(least.lost.map(({ write }) => write)).size
  t.true(writes >= 1 && writes <= 3, JSON.stringify(least.lost))
  // An id makes the same state again, any number of times.
  for (const each of [state, least, state]) {
    const again = await disk.crashState(each.id, options)
    t.deepEqual([again.id, again.lost, again.marks], [each.id, each.lost, each.marks])
    await t.throwsAsync(check(again))
  }
})

test('the report of a failing state names the write that matters', async t => {
  await using disk = await UblkDevice.create({ backend: powercut({ size: '1M', seed: 1 }) })
  const write = (place: number): string =>
    `printf x | dd of="$1" bs=4096 seek=${place} conv=sync,notrunc oflag=direct status=none`
  await sh(`${write(1)}; sync "$1"`, disk.path)
  disk.mark('<b>one</b>')
  await sh(`${write(2)}; ${write(3)}`, disk.path)
  disk.mark('two, too early')
  const last = 'dd if="$1" bs=4096 skip=2 count=1 iflag=direct status=none | tr -d "\\0"'
  const check = async (state: CrashState): Promise<boolean> => {
    await using crashed = await state.disk()
    return state.marks.length < 2 || (await sh(last, crashed.path)) === 'x'
  }
  const found = await firstFailure(
    disk,
    async state => {
      if (!(await check(state))) throw new Error('a promise is broken')
    },
    { from: '<b>one</b>' },
  )
  if (!found) return t.fail('no state lacks the write')
  const { state, least: shrunk } = found
  t.is(shrunk.lost.length, 1)
  const lost = shrunk.lost[0]?.write
  const page = state.report({ title: 'a promise is broken', shrunk })
  t.regex(
    page,
    new RegExp(`<tr class="l s" id=w${lost}><td>${lost}<td><b>A</b>lost<td>write.*<td>8,192<td>4 KiB`),
  )
  t.true(page.includes(`<code>${state.id}</code>`) && page.includes(`<code>${shrunk.id}</code>`))
  t.true(page.includes('&#60;b&#62;one') && !page.includes('<b>one'))
  t.regex(page, /<tr class=d><td>\d+<td>durable<td>write.*<td>4,096<td>/)
  t.is(state.report({ title: 'a promise is broken', shrunk }), page)
  t.throws(() => state.report({ title: '' }), { message: "title must be text, not ''" })
  t.throws(() => state.report({ shrunk: {} as CrashState }), { message: 'shrunk is no state' })
  await disk.delete()
  t.is(state.report({ title: 'a promise is broken', shrunk }), page, 'it needs no disk')
})

test('states are disks of their own, and can be used at the same time', async t => {
  await using disk = await UblkDevice.create({ backend: powercut({ size: '1M', unit: 4096 }) })
  const write = 'printf "$2" | dd of="$1" bs=4096 conv=sync,notrunc oflag=direct status=none'
  const read = 'dd if="$1" bs=4096 count=1 iflag=direct status=none | tr -d "\\0"'
  await sh(`${write}; sync "$1"`, disk.path, 'one')
  await sh(write, disk.path, 'two')
  const states: CrashState[] = []
  for await (const state of disk.crashStates({ budget: 20 })) states.push(state)
  const disks = await Promise.all(states.map(async state => await state.disk()))
  try {
    for (const crashed of disks) {
      t.is((await sh('blockdev --getpbsz --getsize64 "$1"', crashed.path)).trim(), '4096\n1048576')
    }
    const contents = await Promise.all(disks.map(async ({ path }) => await sh(read, path)))
    t.deepEqual([...new Set(contents)].sort(), ['', 'one', 'two'])
    for (const { path } of disks) await sh(write, path, 'new')
    t.is(await sh(read, disk.path), 'two')
    await using again = await (states.at(-1) as CrashState).disk()
    t.is(await sh(read, again.path), contents.at(-1) as string)
  } finally {
    await Promise.all(disks.map(async crashed => await crashed.delete()))
  }
})

test('the power is cut while a disk is in use, and on again', async t => {
  await using disk = await UblkDevice.create({ backend: powercut({ over: memory('1M'), seed: 3 }) })
  const write = (text: string): string =>
    `printf ${text} | dd of="$1" oflag=direct bs=512 conv=sync,notrunc status=none`
  const read = 'dd if="$1" iflag=direct bs=512 count=1 status=none'
  await sh(`${write('one')}; sync "$1"`, disk.path)
  disk.cutAt({ write: 1 })
  await sh(write('two'), disk.path)
  t.true(disk.isPowerOff)
  await t.throwsAsync(sh(read, disk.path), { message: /Input\/output error/ })
  t.throws(() => disk.restore(), { message: 'it is not chosen yet what is left' })
  await disk.cut()
  await t.throwsAsync(disk.cut(), { message: 'the power is off already' })
  disk.restore()
  t.false(disk.isPowerOff)
  t.is(await sh(`${read} | tr -d "\\0"`, disk.path), 'one', 'what can be lost is lost')
  await sh(write('three'), disk.path)
})

test('the power is cut when a predicate says so, which sees what was answered', async t => {
  await using disk = await UblkDevice.create({ backend: powercut({ size: '1M', unit: 512 }) })
  const write = (text: string): string =>
    `printf ${text} | dd of="$1" oflag=direct bs=512 conv=sync,notrunc status=none`
  const read = 'dd if="$1" iflag=direct bs=512 count=1 status=none'
  const seen: RecordedRequest[] = []
  disk.cutAt(request => {
    seen.push(request)
    return seen.filter(({ op }) => op === 'flush').length === 2
  })
  await sh(`${write('one')}; sync "$1"; ${write('two')}; sync "$1"`, disk.path)
  await until(() => disk.isPowerOff, 'the power is off')
  t.deepEqual(
    seen.map(({ op, offset, length }) => `${op} ${offset} ${length}`),
    ['write 0 512', 'flush 0 0', 'write 0 512', 'flush 0 0'],
  )
  await t.throwsAsync(sh(read, disk.path), { message: /Input\/output error/ })
  await disk.cut()
  disk.restore()
  t.is(await sh(`${read} | tr -d "\\0"`, disk.path), 'two')
  const errors: string[] = []
  disk.on('error', ({ message }) => void errors.push(message))
  for (const [predicate, message] of [
    [() => 'yes' as never, /must return true or false, not 'yes'$/],
    [() => assert.fail('by itself'), /failed: by itself$/],
  ] as const) {
    disk.cutAt(predicate)
    await sh('sync "$1"', disk.path)
    await until(() => errors.length > 0, 'it is told what is wrong')
    t.regex(errors.pop() ?? '', message)
  }
  // Another event takes its place.
  disk.cutAt(() => true)
  disk.cutAt({ flush: 2 })
  await sh(`${write('three')}; sync "$1"`, disk.path)
  t.false(disk.isPowerOff)
  await sh('sync "$1"', disk.path)
  t.true(disk.isPowerOff)
})

test('a disk of a state is made until the recorded disk is deleted', async t => {
  const disk = await UblkDevice.create({ backend: powercut({ over: memory('1M') }) })
  const { value } = await disk.crashStates().next()
  const state = value as CrashState
  await using crashed = await state.disk()
  await disk.delete()
  await t.throwsAsync(state.disk(), { message: 'the disk of this state was deleted' })
  t.is(await sh('dd if="$1" bs=512 count=1 status=none | tr -d "\\0"', crashed.path), '')
})

test('the id of a state is refused for other writes, another seed or another model', async t => {
  const recorded = async (at: string): Promise<ServedDevice> => {
    const disk = await UblkDevice.create({ backend: powercut({ size: '1M' }) })
    await sh(
      'printf x | dd of="$1" bs=4096 seek="$2" conv=sync,notrunc oflag=direct status=none',
      disk.path,
      at,
    )
    return disk
  }
  await using disk = await recorded('0')
  await using same = await recorded('0')
  await using other = await recorded('1')
  let states = 0
  for await (const { id, lost } of disk.crashStates()) {
    const refused = { message: `the state ${id} is of other writes, or another seed or model` }
    t.deepEqual((await same.crashState(id)).lost, lost)
    await t.throwsAsync(disk.crashState(id, { seed: 5 }), refused)
    await t.throwsAsync(disk.crashState(id, { model: 'writes' }), refused)
    // Nothing was written yet at the first moment: there the states are the same.
    if (!id.startsWith('0.')) await t.throwsAsync(other.crashState(id), refused)
    states++
  }
  t.true(states >= 2)
})

test('a disk of a state that was deleted becomes that of another state, and nothing of it stays', async t => {
  await using disk = await UblkDevice.create({ backend: powercut({ size: '1M' }) })
  const write = 'printf "$2" | dd of="$1" bs=4096 conv=sync,notrunc status=none'
  // Through the page cache.
  const read = 'head -c 4096 "$1" | tr -d "\\0"'
  for (const text of ['one', 'two', 'three']) {
    await sh(`${write}; sync "$1"`, disk.path, text)
    disk.mark(text)
  }
  const state = async (to: string): Promise<CrashState> => {
    let earliest: CrashState | undefined
    const cut = ({ id }: CrashState): number => Number.parseInt(id, 10)
    for await (const state of disk.crashStates({ from: 'one' })) {
      if (state.marks.at(-1) !== to) continue
      if (state.lost.length > 0) return state // The next write is lost.
      if (!earliest || cut(state) < cut(earliest)) earliest = state
    }
    return earliest as CrashState
  }
  const first = await (await state('one')).disk()
  const { id, path } = first
  t.is(await sh(read, path), 'one')
  await sh(`${write}; sync "$1"; cat "$1" >/dev/null`, path, 'other')
  await first.delete()
  await first.delete()
  await t.throwsAsync(first.info(), { message: `device ${id} was deleted` })
  t.throws(() => first.stats(), { message: `device ${id} was deleted` })
  const second = await (await state('two')).disk()
  t.is(second.id, id)
  t.is(await sh(read, path), 'two')
  const beside = await (await state('three')).disk()
  t.not(beside.id, id)
  t.is(await sh(read, beside.path), 'three')
  await sh('sleep 60 <"$1" >/dev/null 2>&1 & echo $! >"$2"', path, join(DIR, 'user'))
  await t.throwsAsync(second.delete(), { message: /in use/ })
  await sh('kill "$(cat "$1")"', join(DIR, 'user'))
  await second.delete({ wait: true })
  // What would stay is not passed on.
  await sh('blockdev --setro "$1"', beside.path)
  await beside.delete()
  const third = await (await state('one')).disk()
  t.is(await sh(`${write}; ${read}`, third.path, 'new'), 'new')
  t.is(await sh('blockdev --getro "$1"', third.path), '0\n')
  await third.delete()
})

test('what cannot be done is said in one line', async t => {
  await using plain = await UblkDevice.create({ backend: memory('1M') })
  const message = 'the disk does not record what is written to it'
  for (const call of [() => plain.mark('a'), () => plain.restore(), () => plain.cutAt({ write: 1 })]) {
    t.throws(call, { message })
  }
  await t.throwsAsync(plain.cut(), { message })
  await t.throwsAsync(plain.crashStates().next(), { message })
  t.false(plain.isPowerOff)
  await using disk = await UblkDevice.create({ backend: powercut({ size: '1M' }) })
  await t.throwsAsync(disk.crashStates({ from: 'nothing' }).next(), { message: 'there is no mark "nothing"' })
  for (const which of ['1.5', '1-2@0+512', '999999.0', '99999999999999999999.0', '1.99999999999999999999']) {
    for (const id of [which, `${which}~00000000`]) {
      await t.throwsAsync(disk.crashState(id), { message: `there is no state '${id}'` })
    }
  }
  for (const [model, which] of [
    ['bit-rot', '0-99999@0+512^3'],
    ['misdirected', '0-99999@0+512>1024'],
  ] as const) {
    const id = `${which}~00000000`
    await t.throwsAsync(disk.crashState(id, { model }), { message: `there is no state '${id}'` })
  }
  t.throws(() => disk.cutAt({}), { message: /takes a flush, a write or a mark/ })
  const create = async (options: object): Promise<unknown> =>
    await UblkDevice.create({ backend: powercut({ size: '1M', unit: 512 }), ...options })
  await t.throwsAsync(create({ physicalBlockSize: 4096 }), {
    message: 'the backend does not write physical blocks of 4096 bytes whole, only 512',
  })
  await t.throwsAsync(create({ backend: powercut({ over: file(join(DIR, 'missing')) }) }), {
    message: /cannot open/,
  })
})
