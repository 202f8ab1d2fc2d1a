import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { env } from 'node:process'
import test from 'ava'
import {
  type CrashState,
  type CrashStatesOptions,
  memory,
  powercut,
  type ServedDevice,
  UblkDevice,
} from 'ublk-ts'
import { leaveNothingBehind } from '../support/devices.js'
import { hashesOf, readLog } from '../support/dm-log.js'
import { sh } from '../support/program.js'

// What a powercut disk has recorded as a log of dm-log-writes, exchanged with others that read and write such logs.

const DIR = mkdtempSync('/dev/shm/crash-log-')
const MOUNT = join(DIR, 'mnt')
leaveNothingBehind(test)
test.before(async () => void (await sh('mkdir "$1"', MOUNT)))
test.after.always(async () => {
  await sh('umount "$1" 2>/dev/null || :', MOUNT)
  rmSync(DIR, { recursive: true, force: true })
})

const hashOf = async (path: string): Promise<string> =>
  (await sh('sha1sum <"$1" | cut -d" " -f1', path)).trim()

async function statesOf(disk: ServedDevice, options: CrashStatesOptions): Promise<CrashState[]> {
  const states: CrashState[] = []
  for await (const state of disk.crashStates(options)) states.push(state)
  return states
}

/** The hashes of all states. */
async function contentsOf(disk: ServedDevice, options: CrashStatesOptions = {}): Promise<Set<string>> {
  const contents = new Set<string>()
  for await (const state of disk.crashStates(options)) {
    await using crashed = await state.disk()
    contents.add(await hashOf(crashed.path))
  }
  return contents
}

/** Writes a letter to some sectors, in one request. */
const WRITE = `write() { head -c "$(($4 * 512))" /dev/zero | tr '\\0' "$2" | dd of="$1" bs="$(($4 * 512))" seek="$(($3 * 512))" \\
  iflag=fullblock oflag="direct,seek_bytes\${5:-}" conv=notrunc status=none; }`

test('what was recorded with ext4 has the same states after it was exported and read back', async t => {
  const log = join(DIR, 'ext4.log')
  // One request at a time: then the log holds all there is to know.
  await using disk = await UblkDevice.create({
    backend: powercut({ size: '8M', seed: 1 }),
    queues: 1,
    depth: 1,
  })
  await sh('mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 "$1"; mount "$1" "$2"', disk.path, MOUNT)
  await sh('echo 0 >"$1/number"; sync', MOUNT)
  disk.mark('0')
  for (const number of ['1', '2']) {
    await sh('echo "$2" >"$1/new"; sync "$1/new"; mv "$1/new" "$1/number"; sync "$1"', MOUNT, number)
    disk.mark(number)
  }
  await t.throwsAsync(disk.exportLog(join(MOUNT, 'log')), { message: /log is on the disk itself/ })
  await sh('umount "$1"', MOUNT)
  const exported = await disk.exportLog(log)
  t.is(exported.bytes, statSync(log).size)
  const entries = readLog(log)
  t.is(exported.entries, entries.length)
  t.deepEqual(
    entries.flatMap(({ mark }) => mark ?? []),
    ['0', '1', '2'],
  )
  t.is(hashesOf(entries, 8 << 20).at(-1), await hashOf(disk.path))

  await using again = await UblkDevice.create({ backend: powercut({ replay: log, size: '8M', seed: 1 }) })
  t.is(await hashOf(again.path), await hashOf(disk.path))
  const options = { budget: 150 }
  const told = ({ id, marks, lost }: CrashState): unknown => ({
    id,
    marks,
    // The format has no writes of zeroes without data.
    lost: lost.map(each => ({ ...each, op: each.op === 'write-zeroes' ? 'write' : each.op })),
  })
  const [states, found] = [await statesOf(disk, options), await statesOf(again, options)]
  t.is(found.length, 150)
  t.deepEqual(found.map(told), states.map(told))
  for (const state of states.filter((_, number) => number % 40 === 0)) {
    await using crashed = await state.disk()
    await using same = await (await again.crashState(state.id, options)).disk()
    t.is(await hashOf(same.path), await hashOf(crashed.path), state.id)
  }
  // It goes on recording.
  await sh('mount "$1" "$2"; echo 3 >"$2/number"; umount "$2"', again.path, MOUNT)
  again.mark('3')
  await again.exportLog(`${log}.2`)
  t.is(readLog(`${log}.2`).at(-1)?.mark, '3')
  for await (const state of again.crashStates({ from: '3' })) {
    await using crashed = await state.disk()
    t.is(await sh('mount "$1" "$2"; cat "$2/number"; umount "$2"', crashed.path, MOUNT), '3\n')
  }
})

test('the kernel’s dm-log-writes logs prefixes that are among the states, and its log is read', async t => {
  const SIZE = 1 << 20
  await using disk = await UblkDevice.create({ backend: powercut({ size: SIZE, unit: 512 }) })
  await using device = await UblkDevice.create({ backend: memory('8M') })
  await sh('dmsetup create log --table "0 2048 log-writes $1 $2"', disk.path, device.path)
  try {
    const mark = async (name: string): Promise<void> => {
      await sh('dmsetup message log 0 mark "$1"', name)
      disk.mark(name)
    }
    const name = await sh('dmsetup info -c --noheadings -o blkdevname log')
    const dm = `/dev/${name.trim()}`
    await sh(`${WRITE}; write "$1" a 0 8; write "$1" b 8 3; sync "$1"; write "$1" c 4 8`, dm)
    await mark('one')
    await sh(`${WRITE}; write "$1" d 100 1 ,dsync; write "$1" e 2 1; sync "$1"`, dm)
    await mark('two')
    await sh(`blkdiscard -o 4096 -l 4096 "$1"; ${WRITE}; write "$1" f 9 2; sync "$1"; write "$1" g 0 1`, dm)
  } finally {
    await sh('dmsetup remove --retry log')
  }
  const copy = join(DIR, 'dm.log')
  await sh('dd if="$1" of="$2" iflag=direct bs=64K status=none', device.path, copy)
  const entries = readLog(copy)
  const prefixes = hashesOf(entries, SIZE)
  t.true(prefixes.length >= 8, `${prefixes.length} prefixes`)
  const all = await contentsOf(disk, { model: 'writes' })
  t.log(`${prefixes.length} prefixes, ${all.size} contents`)
  for (const [number, prefix] of prefixes.entries()) t.true(all.has(prefix), `prefix ${number}`)

  await using again = await UblkDevice.create({
    backend: powercut({ replay: device.path, size: SIZE, unit: 512 }),
  })
  t.is(await hashOf(again.path), await hashOf(disk.path))
  const states = await statesOf(again, {})
  t.deepEqual(states.filter(({ marks }) => marks.includes('dm-log-writes-end')).at(-1)?.marks, [
    'one',
    'two',
    'dm-log-writes-end',
  ])
  const found = await contentsOf(again, { model: 'writes' })
  t.true(found.size >= prefixes.length - 1)
  for (const content of found) t.true(all.has(content))
})

test('QEMU’s log is read, and QEMU reads ours', async t => {
  const SIZE = 1 << 20
  const [image, log] = [join(DIR, 'image'), join(DIR, 'qemu.log')]
  const qemu = async (more: string, ...commands: string[]): Promise<void> => {
    const words = commands.map(command => `-c '${command}'`).join(' ')
    const drivers = 'driver=blklogwrites,file.driver=file,file.filename=$1,log.driver=file,log.filename=$2'
    await sh(`truncate -s ${SIZE} "$1"; qemu-io --image-opts "${drivers}${more}" ${words}`, image, log)
  }
  const create = async (): Promise<ServedDevice> =>
    await UblkDevice.create({ backend: powercut({ replay: log, size: SIZE, unit: 512 }) })
  await sh('touch "$1"', log)
  await qemu(
    '',
    'write -P 1 0 8k',
    'write -P 2 2k 1k',
    'flush',
    'write -P 3 512 512',
    'write -z 4k 64k',
    'discard 0 1k',
    'flush',
  )
  {
    await using disk = await create()
    t.is(await hashOf(disk.path), await hashOf(image))
    const [prefixes, found] = [hashesOf(readLog(log), SIZE), await contentsOf(disk, { model: 'prefix' })]
    t.deepEqual(found, new Set(prefixes))
    // A first flush made the first two durable.
    const durable = prefixes[2]
    const states = await statesOf(disk, { model: 'writes' })
    t.true(durable !== undefined && states.length > 4)
    await sh(`${WRITE}; write "$1" x 64 2; sync "$1"`, disk.path)
    rmSync(log)
    await disk.exportLog(log)
  }
  // QEMU goes through all entries of a log to which it appends.
  const before = readLog(log).length
  await qemu(',log-append=on', 'write -P 9 100k 1k', 'flush')
  t.true(readLog(log).length > before)
  await using disk = await create()
  const first = await sh('dd if="$1" bs=512 skip=64 count=2 status=none', disk.path)
  t.is(first, 'x'.repeat(1024))
  t.is(
    (await sh('dd if="$1" bs=1k skip=100 count=1 status=none | tr "\\11" y', disk.path)).slice(0, 1024),
    'y'.repeat(1024),
  )
})

// Not among Debian's packages: https://github.com/josefbacik/log-writes, or src/log-writes of xfstests, built and put into PATH.
const REPLAY = (env['PATH'] ?? '')
  .split(':')
  .map(dir => join(dir, 'replay-log'))
  .find(existsSync)
const ifThere = REPLAY === undefined ? test.skip : test

ifThere('replay-log makes of our log the disk, and at each mark what was promised', async t => {
  const [log, copy] = [join(DIR, 'replay.log'), join(DIR, 'copy')]
  await using disk = await UblkDevice.create({ backend: powercut({ size: '16M', seed: 1 }) })
  await sh('mkfs.ext4 -q "$1"; mount "$1" "$2"', disk.path, MOUNT)
  for (const n of [1, 2, 3]) {
    await sh('head -c 500000 /dev/urandom >"$1/file$2"; sync', MOUNT, `${n}`)
    disk.mark(`${n}`)
  }
  await sh('rm "$1/file1"; fstrim "$1"; umount "$1"', MOUNT)
  await disk.exportLog(log)
  const replay = async (...words: string[]): Promise<void> => {
    await sh('rm -f "$1"; truncate -s 16M "$1"', copy)
    await sh('"$@" >/dev/null', REPLAY ?? '', '--log', log, '--replay', copy, ...words)
  }
  await replay()
  t.is(await hashOf(copy), await hashOf(disk.path))
  for (const n of [1, 2, 3]) {
    await replay('--end-mark', `${n}`)
    // It goes through the journal first, as mounting does.
    await sh('e2fsck -fp "$1" >/dev/null || [ $? = 1 ]; e2fsck -fn "$1" >/dev/null 2>&1', copy)
    const files = await sh('mount -o loop,ro "$1" "$2"; ls "$2"; umount "$2"', copy, MOUNT)
    t.deepEqual(files.match(/file\d/g)?.length, n)
  }
})

test('what cannot be exported or replayed is said in one line, and nothing is left', async t => {
  const log = join(DIR, 'no.log')
  await using plain = await UblkDevice.create({ backend: memory('1M') })
  await t.throwsAsync(plain.exportLog(log), { message: 'the disk does not record what is written to it' })
  await using disk = await UblkDevice.create({ backend: powercut({ size: '1M' }) })
  const abort = AbortSignal.abort(new Error('not now'))
  await t.throwsAsync(disk.exportLog(log, { signal: abort }), { message: 'not now' })
  await t.throwsAsync(disk.exportLog(join(DIR, 'no', 'log')), { message: /cannot write .*No such file/ })
  await t.throwsAsync(disk.exportLog(DIR), { message: /exists already/ })
  await disk.cut()
  disk.restore()
  await sh(`${WRITE}; write "$1" x 0 1`, disk.path)
  await disk.cut()
  disk.restore()
  await t.throwsAsync(disk.exportLog(log), { message: /begins with what a power cut left/ })
  t.false(existsSync(log))

  const replay = async (options: object): Promise<unknown> => {
    await using made = await UblkDevice.create({ backend: powercut({ replay: log, ...options }) })
    return made
  }
  await t.throwsAsync(replay({}), { message: /cannot read .*No such file/ })
  await sh('mkfifo "$1"', log)
  await t.throwsAsync(replay({}), { message: /is neither a file nor a block device/ })
  await sh('rm "$1"; head -c 1M /dev/zero >"$1"', log)
  await t.throwsAsync(replay({ log: `${log}.data` }), { message: /is no log of dm-log-writes/ })
  await using other = await UblkDevice.create({ backend: powercut({ size: '1M' }) })
  await sh(`${WRITE}; write "$1" x 2047 1`, other.path)
  rmSync(log)
  await other.exportLog(log)
  const small = { size: '64K', log: `${log}.data` }
  await t.throwsAsync(replay(small), {
    message: /entry \d of .* is beyond the end of the disk, which has 65536 bytes/,
  })
  t.false(existsSync(`${log}.data`))
  await t.notThrowsAsync(replay({}))
  await sh('truncate -s -1 "$1"', log)
  await t.throwsAsync(replay({}), { message: /is truncated/ })
})
