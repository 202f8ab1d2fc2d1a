// processors: 1 and 2
// seconds: 75
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { UblkDevice } from 'ublk-ts'
import { Detached, gone, leaveNoServerBehind, leftovers } from '../support/detached.js'
import { nodes } from '../support/devices.js'
import { onTwo, test } from '../support/processors.js'
import { MAIN, result, run, sh, shell } from '../support/program.js'
import { Server, until } from '../support/server.js'

leaveNoServerBehind(test)

const SILENT = { status: 0, signal: null, stdout: '', stderr: '' }
const IN_FILE = fileURLToPath(new URL('../backends/in-file.js', import.meta.url))
const SIZE = 32 * 2 ** 20

/** A directory of its own, in memory. */
const directory = (): string => mkdtempSync(join(tmpdir(), 'recover-'))

const kinds: Record<string, (dir: string) => string> = {
  'in memory': () => `--mem ${SIZE}`,
  'in a file': dir => `--file ${dir}/disk`,
  'written in JavaScript': dir =>
    `--worker ${IN_FILE} --worker-options ${JSON.stringify({ path: `${dir}/disk`, size: SIZE })}`,
}
for (const [kind, words] of Object.entries(kinds)) {
  onTwo(`a disk ${kind} outlives its servers, and the file system on it goes on`, async t => {
    const dir = directory()
    await sh('truncate -s "$2" "$1/disk"; mkdir "$1/mnt"; touch "$1/sums"', dir, `${SIZE}`)
    const disk = await Detached.create(`${words(dir)} --recovery reissue --queues 2`)
    await sh('mkfs.ext4 -q "$1"; mount "$1" "$2/mnt"', disk.path, dir)
    const writer = result(
      shell(
        `cd "$1/mnt"; for i in $(seq 60); do
           head -c 100000 /dev/urandom >$i; sync -f $i; sha256sum $i >>../sums
         done`,
        dir,
      ),
    )
    for (const written of [10, 25, 40]) {
      await until(async () => Number(await sh('wc -l <"$1/sums"', dir)) >= written, 'the writer is at it')
      await disk.signal('SIGKILL')
      t.deepEqual(await run('recover', disk.path), { ...SILENT, stdout: `${disk.path}\n` })
    }
    t.deepEqual(await writer, SILENT)
    await sh('cd "$1/mnt"; sha256sum --quiet -c ../sums; test $(wc -l <../sums) = 60; cd ..; umount mnt', dir)
    await sh('fsck.ext4 -fn "$1"', disk.path)
    t.is(disk.record.notes.detached, true)
    t.deepEqual(await run('delete', disk.path), SILENT)
  })
}

test('a disk that fails requests without a server comes back with its bytes', async t => {
  const disk = await Detached.create('--mem 16M --recovery fail')
  await sh('echo hello | dd of="$1" bs=512 conv=sync,fsync oflag=direct status=none', disk.path)
  await disk.signal('SIGKILL')
  await until(
    async () => (await run('list', '-n', '-o', 'state')).stdout === 'fail-io\n',
    'the driver notices',
  )
  await t.throwsAsync(sh('dd if="$1" bs=512 count=1 iflag=direct status=none', disk.path))
  t.is((await run('recover', disk.path)).status, 0)
  t.is(await sh('dd if="$1" bs=512 count=1 iflag=direct status=none | head -c 5', disk.path), 'hello')
  t.deepEqual(await run('delete', disk.path), SILENT)
})

onTwo('of two recovers at once one serves the disk, and the other says that it is served', async t => {
  const disk = await Detached.create('--mem 16M --recovery requeue')
  await sh('echo hello | dd of="$1" conv=fsync status=none', disk.path)
  for (let round = 0; round < 3; round++) {
    await disk.signal('SIGKILL')
    const both = await Promise.all([run('recover', disk.path), run('recover', disk.path)])
    const [loser, ...more] = both.filter(({ status }) => status !== 0)
    t.deepEqual(more, [])
    t.is(loser?.status, 1)
    // It finds either the disk's other server first, or that server's claim on the file.
    const served =
      /^ublk-ts: (device \d+ is served by process \d+|[^ ]+ is in use: process \d+ [^\n]*which serves \/dev\/ublkb\d+)[^\n]*\n$/
    t.regex(loser?.stderr ?? '', served)
    t.is(await sh('head -c 5 "$1"', disk.path), 'hello')
    t.is((await run('list', '-n', '-o', 'state,pid')).stdout, `live  ${disk.pid}\n`)
  }
  t.deepEqual(await run('delete', disk.path), SILENT)
})

test('what cannot be recovered is refused for its reason, and stays as it is', async t => {
  const disk = await Detached.create('--mem 16M --recovery reissue')
  const refused = async (words: string, why: RegExp): Promise<void> => {
    const { status, stderr } = await run('recover', ...words.split(' '))
    t.is(status, 1)
    t.regex(stderr, /^ublk-ts: [^\n]*\n$/)
    t.regex(stderr, why)
  }
  await refused(disk.path, new RegExp(`device ${disk.id} is served by process ${disk.pid}`))
  await disk.signal('SIGKILL')
  const text = readFileSync(disk.recordPath, 'utf8')
  for (const [damaged, why] of [
    [text.slice(0, 200), /the record of device \d+ cannot be used: it is truncated; ublk-ts delete/],
    [
      text.replace('"version": 1', '"version": 2'),
      /cannot be used: it has version 2, from ublk-ts [^ ]+; use that/,
    ],
    [text.replace(/"boot": ".{4}/, '"boot": "0000'), /device \d+ went when the machine was started anew/],
    [text.replace(/"identity": "/, '"identity": "9'), /the record of device \d+ is of another that is gone/],
    [text.replace(/"recovery": "reissue"/, '"x": 1'), /device \d+ was made without recovery/],
    [
      text.replace(/ublk-ts-/g, 'ublk-ts-not-'),
      /had its data in \/dev\/shm\/ublk-ts-not-[^ ]+, which is gone/,
    ],
  ] as const) {
    writeFileSync(disk.recordPath, damaged)
    await refused(disk.path, why)
  }
  writeFileSync(disk.recordPath, text)
  await refused('77', /there is no ublk device 77/)
  t.is((await run('recover', disk.path)).status, 0)
  t.deepEqual(await run('delete', disk.path), SILENT)

  const plain = await Detached.create('--mem 16M')
  await plain.signal('SIGKILL')
  await refused(plain.path, /was made without recovery; ublk-ts delete \d+ removes it/)
  t.deepEqual(await run('delete', plain.path), SILENT)
})

test('a disk that was made in the foreground is recovered there, and Ctrl-C removes it', async t => {
  const first = await Server.start('--mem 16M --recovery reissue')
  await sh('echo hello | dd of="$1" conv=fsync status=none', first.path)
  t.is((await first.interrupt('SIGKILL')).signal, 'SIGKILL')
  const second = await Server.command('recover', `${first.id}`)
  t.is(second.line, first.path)
  t.is(await sh('head -c 5 "$1"', second.path), 'hello')
  t.is((await second.interrupt()).status, 0)
  t.deepEqual([nodes(), leftovers()], [[], []])
})

test('several disks are recovered in the background by one command', async t => {
  const disks = [
    await Detached.create('--mem 16M --recovery reissue'),
    await Detached.create('--null 1G --recovery requeue'),
  ]
  for (const disk of disks) await disk.signal('SIGKILL')
  const { status, stdout, stderr } = await run('recover', ...disks.map(({ path }) => path), '99')
  t.is(status, 1)
  t.is(stdout, disks.map(({ path }) => `${path}\n`).join(''))
  t.regex(stderr, /^ublk-ts: there is no ublk device 99[^\n]*\n$/)
  t.deepEqual(await run('delete', ...disks.map(({ path }) => path)), SILENT)
})

test('a recover or an upgrade that gives up when its server serves already leaves that alone', async t => {
  const dir = directory()
  const slow = `${dir}/slow.mjs`
  writeFileSync(
    slow,
    `await new Promise(resolve => setTimeout(resolve, 1500))\nexport { default } from '${IN_FILE}'`,
  )
  await sh('truncate -s "$2" "$1/disk"', dir, `${SIZE}`)
  for (const command of ['recover', 'upgrade']) {
    const options = JSON.stringify({ path: `${dir}/disk`, size: SIZE })
    const disk = await Detached.create(`--worker ${slow} --worker-options ${options} --recovery requeue`)
    await sh('echo hello | dd of="$1" bs=512 conv=sync,fsync oflag=direct status=none', disk.path)
    const { pid } = disk
    if (command === 'recover') await disk.signal('SIGKILL')
    const starter = shell('exec "$@"', process.execPath, MAIN, command, disk.path)
    const ended = result(starter)
    const starts = () => disk.log.filter(({ message }) => message === 'starting').length
    await until(() => starts() === 2, 'the new server knows what to do')
    starter.kill('SIGSTOP')
    await until(() => disk.pid !== pid, 'the new server serves')
    await sleep(300)
    // It has said so, and does not answer what comes next.
    process.kill(disk.pid, 'SIGSTOP')
    starter.kill('SIGCONT')
    const { status, stderr } = await ended
    process.kill(disk.pid, 'SIGCONT')
    t.deepEqual([status, stderr], [1, 'ublk-ts: the server does not answer\n'])
    await sleep(300)
    t.like(await (await UblkDevice.open(disk.id)).info(), { state: 'live', pid: disk.pid })
    t.is(await sh('head -c 5 "$1"', disk.path), 'hello')
    t.deepEqual(await run('delete', disk.path), SILENT)
    await until(() => leftovers().length === 0, 'the servers end')
  }
})

test('create --or-recover makes a disk, or serves it on, or makes it anew', async t => {
  const words = '--mem 16M --recovery reissue --id 8 --or-recover'
  const disk = await Detached.create(words)
  await sh('echo hello | dd of="$1" conv=fsync status=none', disk.path)
  await disk.signal('SIGKILL')
  const other = await run('create', '--detach', ...words.split(' '), '--queues', '2')
  t.is(other.status, 1)
  t.regex(other.stderr, /^ublk-ts: device 8 waits for a server, but was made with another queues; [^\n]*\n$/)
  await Detached.create(words)
  t.is(await sh('head -c 5 "$1"', disk.path), 'hello')
  const served = await run('create', '--detach', ...words.split(' '))
  t.is(served.status, 1)
  t.regex(served.stderr, /^ublk-ts: [^\n]*8[^\n]*exists[^\n]*\n$/)
  t.deepEqual(await run('delete', '8'), SILENT)
  await until(() => leftovers().length === 0, 'the server ends')

  const plain = await Detached.create('--null 16M --id 8')
  await plain.signal('SIGKILL')
  await Detached.create('--null 16M --id 8 --or-recover')
  t.is((await run('list', '-n', '-o', 'state')).stdout, 'live\n')
  t.deepEqual(await run('delete', '8'), SILENT)
})

test('delete removes a disk that waits for a server, and its memory', async t => {
  const disk = await Detached.create('--mem 16M --recovery reissue')
  await disk.signal('SIGKILL')
  t.true(leftovers().some(name => name.startsWith('ublk-ts-')))
  t.regex(
    (await run('doctor')).stdout,
    new RegExp(`device ${disk.id} has no server; remedy: ublk-ts recover ${disk.id}\n`),
  )
  t.deepEqual(await run('delete', disk.path), SILENT)
  t.deepEqual([nodes(), leftovers()], [[], []])
})

test('--auto-restart replaces servers that die, until the disk is deleted', async t => {
  const disk = await Detached.create('--mem 16M --recovery reissue --auto-restart')
  await sh('echo hello | dd of="$1" conv=fsync status=none', disk.path)
  for (let round = 0; round < 3; round++) {
    const { pid } = disk
    await disk.signal('SIGKILL')
    t.is(await sh('dd if="$1" bs=512 count=1 iflag=direct status=none | head -c 5', disk.path), 'hello')
    await until(() => disk.pid !== pid, 'the record says who serves it')
  }
  t.deepEqual(await run('delete', disk.path), SILENT)
  await until(() => leftovers().length === 0, 'server and supervisor end')
  t.true(disk.log.some(({ message }) => /the server of device \d+ died \(SIGKILL\)/.test(message)))
})

test('--auto-restart gives up when servers die too often, and the disk can be recovered', async t => {
  const disk = await Detached.create('--mem 16M --recovery reissue --auto-restart')
  await sh('echo hello | dd of="$1" conv=fsync status=none', disk.path)
  for (let round = 0; round < 6; round++) {
    const { pid } = disk
    await disk.signal('SIGKILL')
    if (round < 5) await until(() => disk.pid !== pid, 'another takes over')
  }
  await until(
    () => disk.log.some(({ message }) => /has no server: 6 died within a minute/.test(message)),
    'it gives up',
  )
  await until(() => !leftovers().some(name => name.startsWith('process')), 'it ends')
  t.is((await run('recover', disk.path)).status, 0)
  t.is(await sh('head -c 5 "$1"', disk.path), 'hello')
  t.deepEqual(await run('delete', disk.path), SILENT)
})

test('the supervisor of a disk in the foreground removes it when it is interrupted', async t => {
  const server = await Server.start('--mem 16M --recovery reissue --auto-restart')
  const disk = new Detached(server.path)
  t.not(disk.pid, server.pid)
  const { pid } = disk
  await disk.signal('SIGKILL')
  await until(() => disk.pid !== pid, 'another takes over')
  const { status, stderr } = await server.interrupt('SIGTERM')
  t.is(status, 0, stderr)
  t.deepEqual([nodes(), leftovers()], [[], []])
})

test('a supervisor that is killed leaves the disk served', async t => {
  const server = await Server.start('--mem 16M --recovery reissue --auto-restart')
  const disk = new Detached(server.path)
  server.signal('SIGKILL')
  await gone(server.pid)
  t.is((await run('list', '-n', '-o', 'state')).stdout, 'live\n')
  const { pid } = disk
  t.deepEqual(await run('delete', disk.path), SILENT)
  await gone(pid)
})
