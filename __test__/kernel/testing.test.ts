/** Disks for tests, and disks for one command: nothing is left, however the test or the command ends. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import test from 'ava'
import type { UblkError } from 'ublk-ts'
import { tmpDisk } from 'ublk-ts/testing'
import { leaveNoServerBehind } from '../support/detached.js'
import { nodes } from '../support/devices.js'
import { result, run, sh, shell } from '../support/program.js'
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

test('the examples pass under their test runners', async t => {
  const dir = 'dist-test/examples/testing'
  t.regex(await sh(`node --test ${dir}/node.test.js`), /# pass 2\n# fail 0\n/)
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
