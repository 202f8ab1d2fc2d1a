/**
 * Outputs of diffs that end, hang, fill up, or are on the disk itself, and commands that are interrupted.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readlinkSync, rmSync } from 'node:fs'
import test from 'ava'
import { Detached, leaveNoServerBehind } from '../support/detached.js'
import { threadsOf } from '../support/proc.js'
import { FLAGS, MAIN, type Result, result, run, sh } from '../support/program.js'
import { until } from '../support/server.js'

leaveNoServerBehind(test)

const SILENT = { status: 0, signal: null, stdout: '', stderr: '' }
const DIR = mkdtempSync('/dev/shm/diff-outputs-')
const at = (name: string): string => `${DIR}/${name}`

test.after.always(() => rmSync(DIR, { recursive: true }))

/** A disk of which everything was changed since a checkpoint. */
async function changedDisk(name: string, mebibytes: number): Promise<Detached> {
  await sh('truncate -s "$2M" "$1"', at(name), `${mebibytes}`)
  const disk = await Detached.create(`--file ${at(name)} --track ${at(`${name}.map`)}`)
  await sh('dd if=/dev/urandom of="$1" bs=1M count=8 oflag=direct status=none', disk.path)
  return disk
}

/** Starts `ublk-ts` with an output that nobody reads yet. */
function start(...words: string[]): ChildProcess {
  return spawn(process.execPath, [...FLAGS, MAIN, ...words], { stdio: ['ignore', 'pipe', 'pipe'] })
}

/** Waits until a server writes a diff, or none any more. */
async function writesDiff({ pid }: Detached, writes = true): Promise<void> {
  const what = writes ? 'a diff is under way' : 'no diff is under way'
  await until(() => threadsOf(pid).some(({ name }) => name === 'ublk-diff-out') === writes, what)
}

/** Where a link leads, if it is still there. */
function link(path: string): string {
  try {
    return readlinkSync(path)
  } catch {
    return ''
  }
}

/** Interrupts a command; how it ended, without its output. */
async function interrupted(
  child: ChildProcess,
  signal: NodeJS.Signals,
  ended = result(child),
): Promise<Omit<Result, 'stdout'>> {
  child.kill(signal)
  const { stdout: _, ...how } = await ended
  return how
}

test('a diff whose reader ends, or that is interrupted, says so in one line, and writes go on', async t => {
  const disk = await changedDisk('a.img', 40)
  const id = `${disk.id}`
  const ended = await run.shell(`diff ${id} --out - | head -c 100 >/dev/null; exit \${PIPESTATUS[0]}`)
  t.deepEqual(ended, {
    ...SILENT,
    status: 1,
    stderr: 'ublk-ts: cannot write the diff to its stream: its reader has ended (EPIPE)\n',
  })
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    const diff = start('diff', id, '--out', '-')
    await writesDiff(disk)
    const cancelled = { status: 1, signal: null, stderr: 'ublk-ts: interrupted\n' }
    t.deepEqual(await interrupted(diff, signal), cancelled, signal)
    await writesDiff(disk, false)
    await sh('dd if=/dev/urandom of="$1" bs=1M count=2 oflag=direct status=none', disk.path)
  }
  t.deepEqual(await run('diff', id, '--out', at('after')), SILENT)
  t.deepEqual(await run('delete', id), SILENT)
})

test('a diff whose output hangs fails when there is no room for what writes wait for', async t => {
  await sh('mkdir "$1"; mount -t tmpfs -o size=1M none "$1"', at('full'))
  const before = process.env['TMPDIR']
  process.env['TMPDIR'] = at('full') // the server's
  const disk = await changedDisk('hangs.img', 96)
  process.env['TMPDIR'] = before
  if (before === undefined) delete process.env['TMPDIR']
  const diff = start('diff', `${disk.id}`, '--out', '-')
  await writesDiff(disk)
  // More than there is memory for: the writes wait, and go on when the diff fails.
  await sh('dd if=/dev/urandom of="$1" bs=1M count=96 oflag=direct status=none', disk.path)
  const { status, stderr } = await result(diff)
  t.is(status, 1)
  t.regex(
    stderr,
    /^ublk-ts: cannot put aside what the output of the diff is too slow for: No space left on device \(ENOSPC\); write it to a faster [^\n]*\n$/,
  )
  t.deepEqual(readdirSync(at('full')), [])
  t.deepEqual(await run('delete', `${disk.id}`), SILENT)
  await sh('umount "$1"; rmdir "$1"', at('full'))
})

test('an output on the disk itself is refused, whatever lies between', async t => {
  const disk = await changedDisk('own.img', 96)
  const id = `${disk.id}`
  await sh(
    `cd "$2"; mkdir mapped looped merged lower other
     dmsetup create own --table "0 $(blockdev --getsz "$1") linear $1 0"
     own=/dev/$(dmsetup info -c --noheadings -o blkdevname own); mkfs.ext4 -q -E nodiscard $own; mount $own mapped
     truncate -s 32M mapped/inner; mkfs.ext4 -q mapped/inner; mount -o loop mapped/inner looped
     mkdir looped/u looped/w; mount -t overlay -o lowerdir=lower,upperdir=$PWD/looped/u,workdir=looped/w none merged
     truncate -s 32M other.img; mkfs.ext4 -q other.img; mount -o loop other.img other`,
    disk.path,
    DIR,
  )
  for (const name of ['mapped', 'looped', 'merged']) {
    const { status, stderr } = await run('diff', id, '--out', at(`${name}/x`))
    t.is(
      stderr,
      `ublk-ts: ${at(`${name}/x`)} is on the disk itself; write the diff to another file system, or to standard output\n`,
    )
    t.is(status, 2)
    t.false(existsSync(at(`${name}/x`)))
  }
  await run('checkpoint', id, 'now')
  t.deepEqual(await run('diff', id, '--since', 'now', '--out', at('other/x')), SILENT, 'another loop device')
  await sh('cd "$1"; umount merged other looped mapped; dmsetup remove own', DIR)
  t.deepEqual(await run('delete', id), SILENT)
})

test('an interrupted apply says what became of the copy', async t => {
  const disk = await changedDisk('b.img', 16)
  const id = `${disk.id}`
  // A file system whose reads are slow.
  await sh(
    `cd "$1"; mkdir slow; truncate -s 48M slow.img; mkfs.ext4 -q -E nodiscard slow.img; losetup /dev/loop6 slow.img
     dmsetup create slow --table "0 98304 delay /dev/loop6 0 100 /dev/loop6 0 0"`,
    DIR,
  )
  const medium = `/dev/${(await sh('dmsetup info -c --noheadings -o blkdevname slow')).trim()}`
  await sh('mount "$1" "$2/slow"', medium, DIR)
  t.deepEqual(await run('diff', id, '--out', at('slow/stream')), SILENT)
  t.deepEqual(await run('diff', id, '--out', at('slow/raw'), '--format', 'raw'), SILENT)
  await sh('truncate -s 16M "$1"', at('copy'))
  for (const [name, hint] of [
    ['stream', 'nothing was changed'],
    ['raw', 'the copy has a part of the diff: apply it again'],
  ] as const) {
    await sh('umount "$2/slow"; mount "$1" "$2/slow"', medium, DIR) // not from the page cache
    const apply = start('apply', at(`slow/${name}`), '--to', at('copy'))
    const ended = result(apply)
    const files = (): string[] => readdirSync(`/proc/${apply.pid}/fd`)
    const reads = (): boolean =>
      files().some(fd => link(`/proc/${apply.pid}/fd/${fd}`) === at(`slow/${name}`))
    await until(reads, 'it reads the diff')
    await sh('sleep 0.3')
    t.deepEqual(await interrupted(apply, 'SIGINT', ended), {
      status: 1,
      signal: null,
      stderr: `ublk-ts: applying the diff was cancelled; ${hint}\n`,
    })
    t.deepEqual(await run('apply', at(`slow/${name}`), '--to', at('copy')), SILENT)
    await sh('cmp "$1" "$2"', at('copy'), at('b.img'))
  }
  await sh('cd "$1"; umount slow; dmsetup remove slow; losetup -d /dev/loop6', DIR)
  t.deepEqual(await run('delete', id), SILENT)
})
