// seconds: 75
/** Disks for tests, and disks for one command: nothing is left, however the test or the command ends. */
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import test from 'ava'
import type { UblkError } from 'ublk-ts'
import { tmpDisk } from 'ublk-ts/testing'
import { leaveNoServerBehind } from '../support/detached.js'
import { nodes } from '../support/devices.js'
import { supported } from '../support/modes.js'
import { MAIN, result, run, sh, shell } from '../support/program.js'
import { Server, until } from '../support/server.js'

leaveNoServerBehind(test)

const EXT4 = { size: '32M', fs: 'ext4', mount: true } as const

const mounts = (): string[] =>
  readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .filter(line => line.startsWith('/dev/ublkb'))
const directories = (): string[] => readdirSync(tmpdir()).filter(name => name.startsWith('ublk-ts-'))

/** Mounts and their directories go with the processes that made them. */
async function nothingIsLeft(): Promise<void> {
  const gone = (): boolean => mounts().length === 0 && directories().length === 0 && nodes().length === 0
  await until(gone, 'nothing is mounted, and no device is left')
}
test.afterEach.always('nothing is left mounted', nothingIsLeft)

test('a disk for a test is mounted, and gone afterwards', async t => {
  let dir: string
  {
    await using disk = await tmpDisk({ ...EXT4, mountOptions: 'noatime' })
    dir = disk.dir
    writeFileSync(`${dir}/a`, 'one')
    await disk.remount()
    t.is(readFileSync(`${dir}/a`, 'utf8'), 'one')
    t.regex(mounts().join(), /ext4 rw.*noatime/)
    t.is((await disk.faults.get().catch((error: UblkError) => error.kind)) as unknown, 'unsupported')
  }
  t.false(existsSync(dir))
})

test('several disks are there side by side, each with its own directory and its own faults', async t => {
  const disks = await Promise.all([1, 2, 3].map(() => tmpDisk({ ...EXT4, faults: [] })))
  t.is(new Set(disks.map(({ dir }) => dir)).size, 3)
  await disks[1]?.faults.set([{ op: 'write', errno: 'EIO' }])
  const written = await Promise.all(
    disks.map(({ dir }) =>
      result(shell('dd if=/dev/zero of="$1/a" bs=64k count=1 conv=fsync status=none', dir)),
    ),
  )
  t.deepEqual(
    written.map(({ status }) => status),
    [0, 1, 0],
  )
  await Promise.all(disks.map(disk => disk[Symbol.asyncDispose]()))
})

test('the power of a disk can be cut, faults or not', async t => {
  for (const more of [{ powercut: true }, { powercut: { seed: 3 }, faults: [] }] as const) {
    const disk = await tmpDisk({ ...EXT4, ...more })
    disk.disk.mark('made')
    writeFileSync(`${disk.dir}/a`, 'one', { flush: true })
    await disk.disk.cut()
    t.throws(() => writeFileSync(`${disk.dir}/b`, 'two', { flush: true }))
    await disk[Symbol.asyncDispose]()
  }
})

test('a disk that hangs is gone, too', async t => {
  const disk = await tmpDisk({ ...EXT4, faults: [{ op: 'write', after: 50, hang: true }] })
  const writer = result(
    shell('dd if=/dev/zero of="$1/a" bs=64k count=100 oflag=direct status=none', disk.dir),
  )
  await until(async () => (await disk.faults.get()).hanging > 0, 'a write hangs')
  await disk[Symbol.asyncDispose]().catch(() => {}) // dd may still have its file open.
  await writer
  t.pass()
})

test('if mkfs or mount fails, no disk is left', async t => {
  const failing = async (options: object): Promise<UblkError | undefined> =>
    await t.throwsAsync<UblkError>(tmpDisk({ ...EXT4, ...options }))
  const none = await failing({ fs: 'nosuchfs' })
  t.deepEqual([none?.kind, none?.message], ['unsupported', 'there is no program mkfs.nosuchfs'])
  const small = await failing({ size: '4K' })
  t.is(small?.kind, 'system')
  t.regex(small?.message ?? '', /^mkfs\.ext4: \S/)
  const option = await failing({ mountOptions: 'nosuchoption' })
  t.is(option?.kind, 'system')
  t.regex(option?.message ?? '', /^mount: \S/)
  await failing({ mkfs: ['-O', 'nosuchfeature'] })
})

test('a file that is still open at the end of a test is reported, and nothing is left', async t => {
  const disk = await tmpDisk(EXT4)
  const holder = shell('exec 3>"$1/a"; echo; exec sleep 60', disk.dir)
  await new Promise(resolve => holder.stdout?.once('data', resolve))
  const error = await t.throwsAsync<UblkError>(disk[Symbol.asyncDispose]())
  t.is(error?.kind, 'busy')
  holder.kill()
})

test('a process that exits, fails or is killed leaves nothing mounted', async t => {
  const program = (end: string): string => `
    import { tmpDisk } from 'ublk-ts/testing'
    const disk = await tmpDisk(${JSON.stringify(EXT4)})
    console.log(disk.path)
    setTimeout(() => { ${end} }, 100)`
  for (const end of [
    'process.exit(3)',
    "throw new Error('failed')",
    "process.kill(process.pid, 'SIGTERM')",
  ]) {
    const server = await Server.program(program(end))
    await server.ended
    await nothingIsLeft()
  }
  const killed = await Server.program(program(''))
  t.is(mounts().length, 1)
  killed.signal('SIGKILL')
  await killed.ended
  await nothingIsLeft()
})

/** Something that somebody else has mounted on a directory. */
async function withOther(
  action: (dir: string, stays: () => Promise<boolean>) => Promise<void>,
): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'other mount-'))
  await sh('mount -t tmpfs other "$1" && touch "$1/theirs"', dir)
  try {
    await action(dir, async () => existsSync(`${dir}/theirs`))
  } finally {
    await sh('umount "$1" && rmdir "$1"', dir)
  }
}

test('what somebody else has mounted on the directory stays', async t => {
  await withOther(async (dir, stays) => {
    const on = { ...EXT4, mount: dir }
    {
      await using disk = await tmpDisk(on)
      t.is(disk.dir, dir)
      t.false(await stays(), 'the disk is on top')
    }
    t.true(await stays(), 'after the end of a test')
    await t.throwsAsync(tmpDisk({ ...on, mkfs: ['-O', 'nosuchfeature'] }))
    t.true(await stays(), 'after mkfs failed')
    await t.throwsAsync(tmpDisk({ ...on, mountOptions: 'nosuchoption' }))
    t.true(await stays(), 'after mount failed')
    {
      await using disk = await tmpDisk(on)
      await sh('umount "$1"', disk.dir)
    }
    t.true(await stays(), 'after the user has unmounted the disk')
    const server = await Server.program(`
      import { tmpDisk } from 'ublk-ts/testing'
      console.log((await tmpDisk(${JSON.stringify(on)})).path)
      setTimeout(() => {}, 60_000)`)
    server.signal('SIGKILL')
    await server.ended
    await nothingIsLeft()
    t.true(await stays(), 'after the test was killed')
  })
})

test('directories that were created for a mount are removed, and no others', async t => {
  const outer = mkdtempSync(join(tmpdir(), 'outer-'))
  {
    await using disk = await tmpDisk({ ...EXT4, mount: `${outer}/a/b` })
    t.is(disk.dir, `${outer}/a/b`)
  }
  t.deepEqual(readdirSync(outer), [])
  writeFileSync(`${outer}/file`, '')
  const error = await t.throwsAsync<UblkError>(tmpDisk({ ...EXT4, mount: `${outer}/file` }))
  t.regex(error?.message ?? '', /^cannot mount on .*\/file: it is not a directory$/)
  await sh('rm -r "$1"', outer)
})

test('rules are applied once the file system is mounted, and count from 0', async t => {
  await using disk = await tmpDisk({ ...EXT4, faults: [{ op: 'write', nth: 1, errno: 'EIO' }] })
  const applied = async (): Promise<number | undefined> => (await disk.faults.get()).rules[0]?.applied
  await result(shell('dd if=/dev/zero of="$1/a" bs=4k count=1 oflag=direct status=none', disk.dir))
  t.is(await applied(), 1, 'mkfs and mount have left the first write')
})

test('the kernel does not look for partitions where that would count', async t => {
  if (!supported.has('NO_AUTO_PART_SCAN')) {
    t.pass('this kernel looks for them before rules are applied, or cannot do without')
    return
  }
  for (let round = 0; round < 5; round++) {
    await using disk = await tmpDisk({ size: '1M', faults: [{ op: 'read', errno: 'EIO' }] })
    await sleep(50)
    t.is((await disk.faults.get()).rules[0]?.considered, 0)
  }
})

test('a disk with a corrupting rule has it once it is mounted', async t => {
  await using disk = await tmpDisk({ ...EXT4, faults: [{ op: 'read', corrupt: true }] })
  t.is(disk.disk.choice?.copy, 'copy')
  t.is((await disk.faults.get()).rules.length, 1)
})

test('rules about each operation are applied to a disk in memory', async t => {
  await using disk = await tmpDisk({ size: '32M', faults: [] })
  for (const [op, script] of [
    ['read', 'dd if="$1" of=/dev/null bs=4k count=1 iflag=direct status=none'],
    ['write', 'dd if=/dev/zero of="$1" bs=4k count=1 oflag=direct status=none'],
    ['flush', 'dd if=/dev/zero of="$1" bs=4k count=1 conv=fsync status=none'],
    ['discard', 'blkdiscard "$1"'],
    ['writeZeroes', 'blkdiscard -z "$1"'],
  ] as const) {
    await disk.faults.set([{ op, errno: 'EIO' }])
    const { status } = await result(shell(script, disk.path))
    t.true(((await disk.faults.get()).rules[0]?.applied ?? 0) > 0, op)
    if (op !== 'writeZeroes') t.not(status, 0, op) // The kernel then writes zeroes.
  }
})

test('a request that is delayed for an hour does not keep a disk', async t => {
  const disk = await tmpDisk({ ...EXT4, faults: [{ op: 'write', delay: '1h' }] })
  writeFileSync(`${disk.dir}/a`, 'one')
  const writer = result(
    shell('exec dd if=/dev/zero of="$1/b" bs=4k count=1 oflag=direct status=none', disk.dir),
  )
  await until(async () => ((await disk.faults.get()).rules[0]?.applied ?? 0) > 0, 'a write is delayed')
  const begun = performance.now()
  await disk[Symbol.asyncDispose]().catch(() => {}) // dd may still have its file open.
  await writer
  t.true(performance.now() - begun < 9000)
})

test('a signal frees what hangs before it ends the process', async t => {
  const server = await Server.program(`
    import { writeFile } from 'node:fs/promises'
    import { tmpDisk } from 'ublk-ts/testing'
    const disk = await tmpDisk(${JSON.stringify({ ...EXT4, faults: [{ op: ['write', 'flush'], hang: true }] })})
    writeFile(disk.dir + '/a', 'one', { flush: true }).catch(() => {})
    while ((await disk.faults.get()).hanging === 0) await new Promise(resolve => setTimeout(resolve, 20))
    console.log(disk.path)`)
  server.signal('SIGTERM')
  t.is((await server.ended).signal, 'SIGTERM')
  await nothingIsLeft()
})

test('a size that a file system refuses is reported in its own words', async t => {
  if ((await result(shell('command -v mkfs.xfs'))).status !== 0) {
    t.pass('there is no mkfs.xfs here')
    return
  }
  const error = await t.throwsAsync<UblkError>(tmpDisk({ size: '64M', fs: 'xfs', mount: true }))
  t.regex(error?.message ?? '', /^mkfs\.xfs: .*(size|larger|small)/i)
})

test('the examples pass under their test runners', async t => {
  const dir = 'dist-test/examples/testing'
  t.regex(await sh(`node --test --test-reporter=tap ${dir}/node.test.js`), /# pass 2\n# fail 0\n/)
  t.regex(await sh(`npx --no -- ava ${dir}/ava.test.js`), /2 tests passed/)
})

test('ublk-ts run gives a command a disk, and has its exit status', async t => {
  const words = 'run --mem 32M --mkfs ext4 --mount /tmp/made'.split(' ')
  const command = 'set -e; findmnt -no SOURCE,TARGET /tmp/made; echo "$UBLK_DISK $UBLK_MOUNT"; exit 7'
  const { status, stdout, stderr } = await run(...words, '--', 'bash', '-c', command)
  t.deepEqual([status, stderr], [7, ''])
  t.regex(stdout, /^(\/dev\/ublkb\d+) \/tmp\/made\n\1 \/tmp\/made\n$/)
  t.false(existsSync('/tmp/made'))
  t.is((await run('run', '--mem', '1M', '--', 'true')).status, 0)
  t.is((await run('run', '--mem', '1M', '--', 'bash', '-c', 'kill -TERM $$')).status, 143)
  const none = await run('run', '--mem', '1M', '--', 'nosuchcommand')
  t.deepEqual(
    [none.status, none.stderr],
    [127, 'ublk-ts: cannot run nosuchcommand: there is no such command\n'],
  )
  const failed = await run('run', '--mem', '4K', '--mkfs', 'ext4', '--', 'true')
  t.is(failed.status, 1)
  t.regex(failed.stderr, /^ublk-ts: mkfs\.ext4: .*\n$/)
})

test('what else is mounted there stays', async t => {
  const dir = '/tmp/made for others'
  await sh('mkdir "$1"; mount -t tmpfs kept "$1"', dir)
  const source = async (): Promise<string> => (await sh('findmnt -no SOURCE "$1" | tail -1', dir)).trim()
  const words = ['--mem', '32M', '--mkfs', 'ext4', '--mount', dir, '--', 'bash', '-c']
  t.is(
    (await run('run', ...words, 'findmnt -no SOURCE "$UBLK_MOUNT" | tail -1')).stdout.slice(0, 10),
    '/dev/ublkb',
  )
  t.is(await source(), 'kept')
  const killed = await Server.command('run', ...words, 'echo ready; exec sleep 2')
  killed.signal('SIGKILL')
  await killed.ended
  await nothingIsLeft()
  t.is(await source(), 'kept')
  await sh('umount "$1"; rmdir "$1"', dir)
})

test('ublk-ts run passes signals on, and leaves nothing if it is killed', async t => {
  const words = ['run', '--mem', '32M', '--mkfs', 'ext4', '--mount', '/tmp/made', '--', 'bash', '-c']
  const passed = await Server.command(
    ...words,
    "trap 'echo got it; exit 5' INT; echo ready; while :; do sleep 0.1; done",
  )
  passed.signal('SIGINT')
  const { status, stdout } = await passed.ended
  t.deepEqual([status, stdout], [5, 'ready\ngot it\n'])
  t.false(existsSync('/tmp/made'))

  const killed = await Server.command(...words, 'echo ready; exec sleep 2')
  killed.signal('SIGKILL')
  await killed.ended
  await nothingIsLeft()
  t.false(existsSync('/tmp/made'))
})

test('ublk-ts fault changes the rules of a disk of ublk-ts run, and thaws it', async t => {
  const write = 'dd if=/dev/zero of="$UBLK_DISK" bs=4k count=1 oflag=direct status=none'
  const server = await Server.command(
    ...['run', '--mem', '1M', '--fault', 'op=write,hang', '--', 'bash', '-c'],
    `echo "$UBLK_DISK"; ${write}; read; ${write}`,
  )
  await until(async () => /^hanging requests: 1$/m.test((await run('fault', server.path)).stdout), 'it hangs')
  t.is((await run('fault', server.path, 'op=write,errno=ENOSPC')).status, 0)
  t.is((await run('fault', server.path, '--thaw')).status, 0)
  const { status, stderr } = await server.ended
  t.is(status, 1)
  t.regex(stderr, /No space left/)
})

test('ublk-ts run ends with what hangs', async t => {
  const words = ['run', '--mem', '32M', '--mkfs', 'ext4', '--mount', '/tmp/made', '--fault', 'op=write,hang']
  const { status } = await run(...words, '--', 'bash', '-c', 'echo one >/tmp/made/a; exit 7')
  t.is(status, 7)
  t.false(existsSync('/tmp/made'))
})

test('a signal during mkfs ends ublk-ts run', async t => {
  const script = `set -m; PATH="$2:$PATH" "\${@:3}" & until [ -e "$2/began" ]; do sleep 0.1; done; kill -TERM $!; wait $!`
  const bin = mkdtempSync(join(tmpdir(), 'bin-'))
  writeFileSync(`${bin}/mkfs.slow`, `#!/bin/sh\ntouch ${bin}/began; exec sleep 60\n`, { mode: 0o755 })
  const words = [process.execPath, MAIN, 'run', '--mem', '1M', '--mkfs', 'slow', '--', 'true']
  const begun = performance.now()
  t.is((await result(shell(script, '', bin, ...words))).status, 143)
  t.true(performance.now() - begun < 30_000)
  await sh('rm -r "$1"', bin)
})

test('a signal ends the wait for umount: the disk is deleted first', async t => {
  const bin = mkdtempSync(join(tmpdir(), 'bin-'))
  const slow = `#!/bin/sh\n[ "$1" != -l ] || exec ${(await sh('command -v umount')).trim()} "$@"\ntouch ${bin}/began; exec sleep 60\n`
  writeFileSync(`${bin}/umount`, slow, { mode: 0o755 })
  const words = ['run', '--mem', '32M', '--mkfs', 'ext4', '--mount', '/tmp/made', '--', 'true']
  const child = spawn(process.execPath, [MAIN, ...words], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, PATH: `${bin}:${process.env['PATH']}` },
  })
  const ended = result(child)
  await until(() => existsSync(`${bin}/began`), 'umount runs')
  child.kill('SIGTERM')
  const { status, stderr } = await ended
  t.deepEqual(
    [status, stderr],
    [1, 'ublk-ts: umount of /tmp/made did not end, so the disk was deleted first\n'],
  )
  await nothingIsLeft()
  await sh('rm -r "$1"', bin)
})

test('the exit status of the command is kept if cleaning up fails', async t => {
  const words = ['run', '--mem', '32M', '--mkfs', 'ext4', '--mount', '/tmp/made', '--', 'bash', '-c']
  const held = await run(...words, 'sleep 5 >/dev/null 2>&1 3>/tmp/made/a & sleep 0.5; exit 7')
  t.is(held.status, 7)
  t.regex(held.stderr, /^ublk-ts: the file system on \/tmp\/made was still in use: .*\n$/)
})

test('Ctrl-C reaches the command of ublk-ts run once', async t => {
  // A shell would take two signals that come at once for one.
  const script = `process.on("SIGINT", () => fs.appendFileSync(process.argv[1], "got it\\n")); fs.writeFileSync(process.argv[1] + ".ready", ""); setTimeout(() => {}, 3000)`
  const log = join(mkdtempSync(join(tmpdir(), 'keys-')), 'log')
  const quoted = [process.execPath, MAIN, 'run', '--mem', '1M', '--', process.execPath, '-e', script, log]
    .map(word => `'${word}'`)
    .join(' ')
  // What script(1) reads is typed on the terminal of the command.
  await result(
    shell(
      `(until [ -e "$2.ready" ]; do sleep 0.1; done; printf '\\003'; sleep 3) | script -qec "$1" /dev/null`,
      quoted,
      log,
    ),
  )
  t.is(readFileSync(log, 'utf8'), 'got it\n')
})

test('ublk-ts run refuses what makes no sense for it', async t => {
  const { status, stderr } = await run('run', '--mem', '1M', '--recovery', 'reissue', '--', 'true')
  t.is(status, 2)
  t.regex(stderr, /^ublk-ts: --recovery is not for run; /)
})
