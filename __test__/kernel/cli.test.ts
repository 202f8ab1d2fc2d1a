// processors: 1 and 2
// seconds: 55
import { setTimeout as sleep } from 'node:timers/promises'
import type { ExecutionContext } from 'ava'
import { memory, UblkDevice } from 'ublk-ts'
import { leaveNothingBehind, nodes } from '../support/devices.js'
import { automatic } from '../support/modes.js'
import { onTwo, test } from '../support/processors.js'
import { MAIN, result, run, sh, shell } from '../support/program.js'
import { Server, until } from '../support/server.js'

leaveNothingBehind(test)

/** Formats a disk and mounts it on /tmp/m until the test is over. */
async function mount(t: ExecutionContext, path: string): Promise<void> {
  t.teardown(() => sh('! mountpoint -q /tmp/m || umount /tmp/m'))
  await sh('mkfs.ext4 -q "$1"; mkdir -p /tmp/m; mount "$1" /tmp/m', path)
}

const SILENT = { status: 0, signal: null, stderr: '' }

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  test(`create prints the path of a usable disk and nothing else, and ${signal} removes it`, async t => {
    const server = await Server.start('--mem 16M')
    t.regex(server.path, /^\/dev\/ublkb\d+$/)
    t.is(await sh('blockdev --getsize64 "$1"', server.path), '16777216\n')
    t.deepEqual(await server.interrupt(signal), { ...SILENT, stdout: `${server.path}\n` })
    t.deepEqual(nodes(), [])
  })
}

onTwo('create --json prints one line of JSON', async t => {
  const server = await Server.start(
    '--null 1G --id 5 --queues 2 --depth 8 --block-size 4K --max-io 64K --json',
  )
  const { ublkdevices } = JSON.parse(server.line)
  t.is(ublkdevices.length, 1)
  t.like(ublkdevices[0], {
    id: 5,
    path: '/dev/ublkb5',
    state: 'live',
    size: 2 ** 30,
    'log-sec': 4096,
    queues: 2,
    depth: 8,
    'max-io': 65536,
    pid: server.pid,
  })
  t.is((await server.interrupt()).stdout.split('\n').length, 2)
})

test('create takes all its options', async t => {
  const words =
    '--mem 16MB --write-cache on --rotational --discard-granularity 64K --max-discard 1M --id 3 --block-size 512'
  await Server.with(words, async ({ path }) => {
    const { stdout } = await run('list', '--json', '--bytes')
    t.like(JSON.parse(stdout).ublkdevices[0], {
      path,
      size: 16_000_000,
      cache: true,
      fua: true,
      rota: true,
      'disc-gran': 65536,
      'disc-max': 2 ** 20,
    })
  })
  await Server.with('--mem 16M --read-only --no-discard', async ({ path }) => {
    t.is(
      await sh('blockdev --getro "$1"; cat /sys/block/$(basename $1)/queue/discard_max_bytes', path),
      '1\n0\n',
    )
  })
})

test('list, show and features say what there is', async t => {
  t.deepEqual(await run('list'), { ...SILENT, stdout: '' })
  t.deepEqual(JSON.parse((await run('ls', '--json')).stdout), { ublkdevices: [] })
  await Server.with('--mem 16M --id 4', async server => {
    const list = await run('list')
    t.regex(
      list.stdout,
      /^ID +PATH +NAME +STATE +SIZE +RO +QUEUES +DEPTH +PID +BACKEND +SOURCE\n +4 +\/dev\/ublkb4 +live +16M +0 +1 +128 +\d+ +memory\n$/,
    )
    t.is((await run('list', '-n', '-o', 'path,size,users', '--bytes')).stdout, '/dev/ublkb4  16777216\n')
    const show = await run('show', 'ublkb4')
    t.regex(show.stdout, /^ID +4\nPATH +\/dev\/ublkb4\nNAME\nSTATE +live\nSIZE +16M\n/)
    t.regex(show.stdout, new RegExp(`^PID +${server.pid}$`, 'm'))
    t.is(JSON.parse((await run('show', '4', '--json')).stdout).ublkdevices[0].size, 2 ** 24)
  })
  const features = JSON.parse((await run('features', '--json')).stdout).features
  t.true(features.some((feature: { feature: string; have: boolean }) => feature.have))
  t.regex((await run('features')).stdout, /^FEATURE +HAVE +SINCE +SUMMARY\n/)
})

test('how a disk is served, and why, is shown', async t => {
  const columns = 'transport,transport-why,copy,copy-why'
  await Server.with('--mem 16M --copy copy --json', async ({ line }) => {
    const [made] = JSON.parse(line).ublkdevices
    t.like(made, { copy: 'copy', 'copy-why': 'asked for' })
    const listed = JSON.parse((await run('list', '--json', '-o', columns)).stdout).ublkdevices
    const { transport } = automatic('memory')
    t.like(listed, [{ transport, copy: 'copy', 'copy-why': 'asked for' }])
    t.not(listed[0]['transport-why'], 'asked for')
    const { stdout } = await run('show', made.path)
    t.regex(
      stdout,
      new RegExp(`^TRANSPORT +${transport}\nTRANSPORT-WHY +\\w.*\nCOPY +copy\nCOPY-WHY +asked for$`, 'm'),
    )
  })
  await using disk = await UblkDevice.create({ backend: memory('16M') })
  const [listed] = JSON.parse((await run('list', '--json', '-o', columns)).stdout).ublkdevices
  t.deepEqual(listed, { ...automatic('memory'), 'transport-why': null, 'copy-why': null }, disk.path)
})

test('a disk of one queue loses the scheduler that the kernel gives it', async t => {
  await using disk = await UblkDevice.create({ backend: memory('16M') })
  const scheduler = async () => (await run('list', '--noheadings', '-o', 'sched')).stdout.trim()
  await until(async () => (await scheduler()) === 'none', 'it has none')
  // Until the kernel is quite done with one change, it refuses another.
  const change = 'until echo mq-deadline >/sys/block/$1/queue/scheduler; do sleep 0.1; done'
  await sh(change, disk.path.replace('/dev/', ''))
  t.is(await scheduler(), 'mq-deadline')
})

test('features has a second list: how disks are served here, and why', async t => {
  const { choices } = JSON.parse((await run('features', '--json')).stdout)
  t.deepEqual(
    choices.map(({ backend }: { backend: string }) => backend),
    ['memory', 'file', 'null', 'qcow2', 'nbd', 'qemu', 's3', 'javascript'],
  )
  const { stdout } = await run('features')
  const [first, second, ...more] = stdout.split('\n\n')
  t.deepEqual(more, [])
  t.false(first?.includes('COPY-WHY'))
  const [title, ...rows] = second?.trimEnd().split('\n') ?? []
  t.regex(title ?? '', /^BACKEND +TRANSPORT +TRANSPORT-WHY +COPY +COPY-WHY$/)
  t.is(rows.length, choices.length)
  const { copy } = automatic('file')
  t.regex(rows[1] ?? '', new RegExp(`^file +\\S+ +\\S.*  ${copy} +\\S`))
  const chosen = await run('features', '-o', 'feature')
  t.regex(chosen.stdout, /^FEATURE\n(\w+\n)+$/)
})

test('doctor finds nothing that prevents use here', async t => {
  const { status, stdout, stderr } = await run('doctor', '--json')
  t.is(status, 0)
  t.is(stderr, '')
  const checks: { check: string; status: string }[] = JSON.parse(stdout).checks
  t.deepEqual(
    checks.filter(check => check.status === 'FAIL'),
    [],
  )
  t.like(
    checks.find(check => check.check === 'leftovers'),
    { status: 'ok' },
  )
})

test('stop and delete take numbers, names and paths, and the server ends when its disk is taken away', async t => {
  for (const [verb, name] of [
    ['stop', (id: number) => `${id}`],
    ['delete', (id: number) => `ublkb${id}`],
    ['rm', (id: number) => `/dev/ublkb${id}`],
  ] as const) {
    const server = await Server.start('--mem 16M')
    t.deepEqual(await run(verb, name(server.id)), { ...SILENT, stdout: '' })
    const ended = await server.ended
    t.is(ended.status, 0)
    t.regex(ended.stderr, /^ublk-ts: \/dev\/ublkb\d+ is gone: [^\n]+\n$/)
    t.deepEqual(nodes(), [])
  }
})

test('a mounted disk is not deleted, and the reason is told', async t => {
  await Server.with('--mem 16M', async ({ path, id }) => {
    await mount(t, path)
    for (const verb of ['delete', 'stop']) {
      const refused = await run(verb, path)
      t.is(refused.status, 1)
      t.regex(refused.stderr, /^ublk-ts: [^\n]*in use: [^\n]*mounted on \/tmp\/m[^\n]*\n$/)
    }
    t.regex((await run('show', path)).stdout, /^USERS +mounted on \/tmp\/m/m)
    const gaveUp = await run('delete', '--wait', '--timeout', '1', `${id}`)
    t.is(gaveUp.status, 1)
    const [waits = '', late = '', ...more] = gaveUp.stderr.split('\n')
    t.regex(waits, /^ublk-ts: [^\n]*in use: mounted on \/tmp\/m; waiting$/)
    t.regex(late, /^ublk-ts: [^\n]*still in use after 1 s[^\n]*mounted on \/tmp\/m/)
    t.deepEqual(more, [''])
    await sh('echo works >/tmp/m/file; cat /tmp/m/file; umount /tmp/m')
  })
})

test('delete --wait waits until a disk is free', async t => {
  const server = await Server.start('--mem 16M')
  await mount(t, server.path)
  const waiting = run('delete', '--wait', '--timeout', '30', server.path)
  await sleep(1500)
  t.is((await run('list', '-n', '-o', 'state')).stdout, 'live\n')
  await sh('umount /tmp/m')
  t.is((await waiting).status, 0)
  t.is((await server.ended).status, 0)
})

test('delete --force takes a mounted disk away', async t => {
  const server = await Server.start('--mem 16M')
  await mount(t, server.path)
  t.deepEqual(await run('delete', '--force', server.path), { ...SILENT, stdout: '' })
  t.is((await server.ended).status, 0)
  t.deepEqual(nodes(), [])
  await t.throwsAsync(sh('echo fails >/tmp/m/file; sync /tmp/m/file'))
})

test('Ctrl-C on a mounted disk waits until it is unmounted', async t => {
  const server = await Server.start('--mem 16M')
  await mount(t, server.path)
  server.signal('SIGINT')
  await server.said(
    /is still in use \(mounted on \/tmp\/m\); waiting — press Ctrl-C again to remove it anyway\n/,
  )
  await sh('echo works >/tmp/m/file; sync /tmp/m/file; umount /tmp/m')
  const { status, stderr } = await server.ended
  t.is(status, 0)
  t.is(stderr.split('\n').length, 2)
  t.deepEqual(nodes(), [])
})

test('a second Ctrl-C removes a mounted disk anyway', async t => {
  const server = await Server.start('--mem 16M')
  await mount(t, server.path)
  server.signal('SIGINT')
  await server.said(/is still in use/)
  await sleep(400)
  t.is((await server.interrupt()).status, 0)
  t.deepEqual(nodes(), [])
})

test('Ctrl-C passed on twice by npm counts once', async t => {
  const server = await Server.start('--mem 16M')
  await mount(t, server.path)
  server.signal('SIGINT')
  await sleep(10)
  server.signal('SIGINT')
  await sleep(1000)
  t.is(await sh('echo works >/tmp/m/file; sync /tmp/m/file; cat /tmp/m/file; umount /tmp/m'), 'works\n')
  t.is((await server.ended).status, 0)
})

test('Ctrl-C at any moment of the start leaves nothing behind', async t => {
  for (const delay of [0.05, 0.3, 0.5, 0.6, 0.7, 0.8, 1]) {
    // Without job control, bash starts what is in the background with SIGINT ignored, until Node resets that: a signal that came
    // before was lost, and the wait had no end.
    const script = 'set -m; "$1" "$2" create --mem 16M & sleep "$3"; kill -INT $!; wait $!'
    const { status } = await result(shell(script, process.execPath, MAIN, `${delay}`))
    t.true(status !== null && [0, 1, 130].includes(status), `${delay} s: ${status}`)
    t.deepEqual(nodes(), [])
  }
})

test('a stopped server can be continued', async t => {
  await Server.with('--mem 16M', async server => {
    server.signal('SIGSTOP')
    const reading = sh('head -c 1M "$1" | wc -c', server.path)
    await sleep(200)
    server.signal('SIGCONT')
    t.is(await reading, '1048576\n')
    await until(async () => (await run('list', '-n', '-o', 'users')).stdout.trim() === '', 'free again')
  })
})

test('in the journal what is logged has a priority, and more is', async t => {
  const words = 'create --mem 16M 2>/tmp/journal & until grep -q usable /tmp/journal; do sleep 0.1; done'
  const { status } = await run.shell(`${words}; kill $!; wait $!`, {
    JOURNAL_STREAM: await journal(),
  })
  t.is(status, 0)
  t.regex(
    await sh('cat /tmp/journal'),
    /^<6>starting\n<6>\/dev\/ublkb\d+ is usable\n<6>\/dev\/ublkb\d+ was removed\n$/,
  )
})

async function journal(): Promise<string> {
  return (await sh('touch /tmp/journal; stat --format %d:%i /tmp/journal')).trim()
}
