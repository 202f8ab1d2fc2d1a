// processors: 1 and 2
// seconds: 75
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readlinkSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { UblkDevice } from 'ublk-ts'
import { ask, Detached, gone, leaveNoServerBehind, leftovers, RUN_DIR } from '../support/detached.js'
import { nodes } from '../support/devices.js'
import { onTwo, test } from '../support/processors.js'
import { MAIN, result, run, sh, shell } from '../support/program.js'
import { until } from '../support/server.js'

leaveNoServerBehind(test)

const SILENT = { status: 0, signal: null, stdout: '', stderr: '' }

/** A module for `--worker`: a disk of 1 MiB whose factory does this first. */
function moduleThat(does: string): string {
  const path = join(mkdtempSync(join(tmpdir(), 'module-')), 'disk.mjs')
  writeFileSync(
    path,
    `export default async (options, { queue }) => {
      ${does}
      return { size: 2 ** 20, read: (_, into) => void into.fill(1) }
    }`,
  )
  return path
}

test('create --detach returns when the disk is usable, and delete ends its server', async t => {
  const disk = await Detached.create('--mem 16M --id 3')
  t.is(disk.path, '/dev/ublkb3')
  t.is(await sh('blockdev --getsize64 "$1"', disk.path), '16777216\n')
  t.is((await run('list', '-n', '-o', 'state,pid,log')).stdout, `live  ${disk.pid}  ${RUN_DIR}/3.log\n`)
  t.is(statSync(disk.recordPath).mode & 0o777, 0o600)
  t.is(statSync(`${RUN_DIR}/3.sock`).mode & 0o777, 0o600)
  t.is(statSync(RUN_DIR).mode & 0o777, 0o700)
  const { pid } = disk
  t.deepEqual(await run('delete', '3'), SILENT)
  await gone(pid)
  t.deepEqual([nodes(), leftovers()], [[], []])
})

test('create --detach --json prints what create --json does', async t => {
  const { status, stdout } = await run('create', '--detach', '--null', '1G', '--json')
  t.is(status, 0)
  t.is(stdout.split('\n').length, 2)
  const { id, pid, size, state, log } = JSON.parse(stdout).ublkdevices[0]
  t.deepEqual({ size, state, log }, { size: 2 ** 30, state: 'live', log: `${RUN_DIR}/${id}.log` })
  t.is(pid, new Detached(`/dev/ublkb${id}`).pid)
  t.deepEqual(await run('delete', `${id}`), SILENT)
})

test('a detached server survives its terminal', async t => {
  await sh(`script -qec '${process.execPath} ${MAIN} create --mem 16M --id 5 --detach' /dev/null </dev/null`)
  const disk = new Detached('/dev/ublkb5')
  await disk.signal('SIGHUP', { ends: false })
  await sh('echo x | dd of="$1" bs=512 count=1 conv=sync,fsync status=none', disk.path)
  t.is((await run('list', '-n', '-o', 'state')).stdout, 'live\n')
  t.is(readlinkSync(`/proc/${disk.pid}/cwd`), '/')
  t.is(readlinkSync(`/proc/${disk.pid}/fd/0`), '/dev/null')
  t.deepEqual(await run('delete', '5'), SILENT)
})

for (const [what, words, status, line] of [
  ['a missing file', '--file /nowhere', 1, /cannot open \/nowhere: No such file/],
  ['a module that is not there', '--worker ./nowhere.js', 1, /module cannot be loaded: [^\n]*nowhere\.js/],
  ['a wrong option', '--mem 16M --depth 5000', 2, /depth must be a whole number from 1 to 4096/],
  ['a size that does not fit', '--mem 1000', 2, /size 1000 is not a multiple/],
] as const) {
  test(`${what} is told by create --detach in one line, and nothing is left`, async t => {
    const failed = await run('create', '--detach', ...words.split(' '))
    t.is(failed.status, status)
    t.is(failed.stdout, '')
    t.regex(failed.stderr, /^ublk-ts: [^\n]+\n$/)
    t.regex(failed.stderr, line)
    t.deepEqual([nodes(), leftovers()], [[], []])
  })
}

test('a number that is taken is told by create --detach', async t => {
  const disk = await Detached.create('--mem 16M --id 4')
  const failed = await run('create', '--detach', '--mem', '16M', '--id', '4')
  t.is(failed.status, 1)
  t.regex(failed.stderr, /^ublk-ts: [^\n]*4[^\n]*exists[^\n]*\n$/)
  t.is((await run('list', '-n', '-o', 'state,pid')).stdout, `live  ${disk.pid}\n`)
  t.deepEqual(await run('delete', '4'), SILENT)
})

onTwo('a server that dies while it starts is noticed, and its device is removed', async t => {
  t.true(availableParallelism() > 1, 'the kernel gives a disk at most one queue a processor')
  for (const queue of [0, 1]) {
    const path = moduleThat(`if (queue === ${queue}) process.kill(process.pid, 'SIGKILL')`)
    const failed = await run('create', '--detach', '--worker', path, '--queues', '2')
    t.is(failed.status, 1)
    t.regex(failed.stderr, /^ublk-ts: the server ended \(SIGKILL\) before the disk was usable[^\n]*\n$/)
    t.deepEqual([nodes(), leftovers()], [[], []])
  }
})

test('a server that hangs while it starts is ended', async t => {
  for (const hangs of [
    'await new Promise(() => setInterval(() => {}, 1e6))',
    'for (;;) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100)',
    "process.kill(process.pid, 'SIGSTOP')",
  ]) {
    const failed = await run('create', '--detach', '--worker', moduleThat(hangs), '--timeout', '1')
    t.is(failed.status, 1)
    t.regex(failed.stderr, /^ublk-ts: [^\n]*(not usable after 1 s|did not come up)[^\n]*\n$/)
    t.deepEqual([nodes(), leftovers()], [[], []])
  }
})

test('a server whose starter is gone, or is interrupted, leaves nothing', async t => {
  const path = moduleThat('await new Promise(() => setInterval(() => {}, 1e6))')
  // At first the server has just been started and has no job yet.
  for (const [signal, after] of [
    ['SIGKILL', 0],
    ['SIGKILL', 500],
    ['SIGINT', 500],
    ['SIGHUP', 500],
  ] as const) {
    const starter = shell('exec "$@"', process.execPath, MAIN, 'create', '--detach', '--worker', path)
    const ended = result(starter)
    await until(() => leftovers().some(name => name.startsWith('process')), 'the server is there')
    await sleep(after)
    starter.kill(signal)
    const { stderr } = await ended
    if (signal !== 'SIGKILL') t.is(stderr, 'ublk-ts: interrupted before the disk was usable\n')
    await until(() => leftovers().length === 0, 'the server ends')
  }
  t.deepEqual(nodes(), [])
})

test('the log of a server that nobody started to its end goes when the next one is started', async t => {
  const started = await Detached.create('--mem 16M')
  t.deepEqual(await run('delete', started.path), SILENT)
  const [gone, fresh, running] = ['999999999-gone', '999999999-fresh', `${process.pid}-running`]
  const names = [gone, fresh, running].map(name => `starting-${name}.log`)
  await sh('cd "$1"; touch -d "1 hour ago" "$2" "$4"; touch "$3"', RUN_DIR, ...names)
  const disk = await Detached.create('--mem 16M')
  t.deepEqual(
    names.filter(name => existsSync(join(RUN_DIR, name))),
    names.slice(1),
  )
  await sh(`rm ${RUN_DIR}/starting-*`)
  t.deepEqual(await run('delete', disk.path), SILENT)
})

test('a path that cannot be printed is a failure that leaves no disk', async t => {
  const { status, stderr } = await run.shell('create --detach --mem 16M >/dev/full')
  t.is(status, 1)
  t.regex(stderr, /^ublk-ts: cannot write to standard output: ENOSPC[^\n]*\n$/)
  t.deepEqual([nodes(), leftovers()], [[], []])
})

for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  test(`${signal} ends a detached server once its disk is free, and a second one at once`, async t => {
    const first = await Detached.create('--mem 16M')
    await first.signal(signal)
    t.deepEqual([nodes(), leftovers()], [[], []])

    const disk = await Detached.create('--mem 16M')
    await sh('mkfs.ext4 -q "$1"; mkdir -p /tmp/d; mount "$1" /tmp/d', disk.path)
    t.teardown(() => sh('! mountpoint -q /tmp/d || umount /tmp/d'))
    const { pid } = disk
    await disk.signal(signal, { ends: false })
    await until(
      () => disk.log.some(({ message }) => /still in use \(mounted on \/tmp\/d\)/.test(message)),
      'told',
    )
    t.is(await sh('echo works >/tmp/d/x; cat /tmp/d/x'), 'works\n')
    await sleep(400)
    await disk.signal(signal)
    await gone(pid)
    t.deepEqual(nodes(), [])
    await sh('umount /tmp/d')
  })
}

test('what happens to a detached disk is logged as lines of JSON', async t => {
  const path = moduleThat('')
  writeFileSync(
    path,
    `${readFileSync(path, 'utf8').replace('into.fill(1)', '(() => { throw new Error("no luck") })()')}`,
  )
  const disk = await Detached.create(`--worker ${path}`)
  await sh('! head -c 512 "$1" >/dev/null 2>&1', disk.path)
  const { id } = disk
  t.deepEqual(await run('stop', `${id}`), SILENT)
  await until(() => leftovers().length === 0, 'the server ends')
  const events = disk.log.map(({ level, message }) => `${level} ${message}`)
  for (const event of [
    /^INFO starting$/,
    /^INFO \/dev\/ublkb\d+ is usable$/,
    /^ERROR .*no luck/,
    /^INFO .* is gone: .*stopped by another process/,
    /^INFO \/dev\/ublkb\d+ was removed$/,
  ]) {
    t.true(
      events.some(line => event.test(line)),
      `${event} in ${events.join('; ')}`,
    )
  }
})

test('--log-file and --log-level say where and how much a detached server logs', async t => {
  const log = join(mkdtempSync(join(tmpdir(), 'log-')), 'log')
  writeFileSync(log, 'as before\n')
  for (const [level, logged] of [
    ['warning', /^as before\n$/],
    ['info', /^as before\n(?:\{[^\n]*\}\n)*\{[^\n]*"level":"INFO"[^\n]*is gone[^\n]*\}\n(?:\{[^\n]*\}\n)*$/],
  ] as const) {
    const disk = await Detached.create(`--mem 16M --log-file ${log} --log-level ${level}`)
    t.is((await run('list', '-n', '-o', 'log')).stdout, `${log}\n`)
    t.deepEqual(await run('delete', `${disk.id}`), SILENT)
    await until(() => leftovers().length === 0, 'the server ends')
    t.regex(readFileSync(log, 'utf8'), logged)
  }
})

test('a detached disk takes relative paths, which its record holds in full', async t => {
  const dir = mkdtempSync(join(tmpdir(), 'relative-'))
  mkdirSync(join(dir, 'in'))
  await sh('truncate -s 1M "$1/disk.img"', dir)
  writeFileSync(join(dir, 'disk.mjs'), readFileSync(moduleThat(''), 'utf8'))
  const there = (words: string) =>
    sh(`cd "$1/in"; "$2" "$3" create --detach ${words}`, dir, process.execPath, MAIN)
  const file = new Detached((await there('--file ../disk.img')).trimEnd())
  t.is(file.record.options.backend.path, join(dir, 'disk.img'))
  const module = new Detached((await there('--worker ../disk.mjs')).trimEnd())
  t.is(module.record.options.backend.url, `file://${join(dir, 'disk.mjs')}`)
  t.is(await sh('head -c 3 "$1" | od -An -tx1', module.path), ' 01 01 01\n')
  t.deepEqual(await run('delete', file.path, module.path), SILENT)
})

test('another process reads the counters of a detached disk, and not of one without a record', async t => {
  const disk = await Detached.create('--mem 16M')
  await sh('dd if=/dev/zero of="$1" bs=4096 count=3 oflag=direct status=none', disk.path)
  const [queue] = await (await UblkDevice.open(disk.id)).stats()
  t.like(queue?.write, { ops: 3, bytes: 12288, errors: 0 })
  const record = await disk.record
  t.is(record.version, 1)
  t.deepEqual(await run('delete', disk.path), SILENT)
  await t.throwsAsync(UblkDevice.open(disk.id), { message: /./ })
})

test('a server answers what is no request with an error, and goes on', async t => {
  const { id } = await Detached.create('--mem 16M')
  const error = (answer: string) => JSON.parse(answer).error.message
  t.regex(error(await ask(id, 'hello\n')), /not JSON/)
  t.regex(error(await ask(id, '{"id":1}\n')), /a request has a method/)
  t.regex(error(await ask(id, 'null\n')), /a request is an object/)
  t.regex(error(await ask(id, 'x'.repeat(100_000))), /too long/)
  t.regex(error(await ask(id, '{"id":1,"method":"toString","params":{}}\n')), /knows no 'toString'/)
  t.is(await ask(id, '{"id":7,"method":"ping","params":{}}\n'), '{"id":7,"result":null}\n')
  t.deepEqual(await run('delete', `${id}`), SILENT)
})

test('a server that is asked to shut down answers, and is gone', async t => {
  const { id, pid } = await Detached.create('--mem 16M')
  t.is(await ask(id, '{"id":1,"method":"shutdown","params":{}}\n'), '{"id":1,"result":null}\n')
  await gone(pid)
  t.deepEqual([nodes(), leftovers()], [[], []])
})

test('a disk whose backend never answers is deleted by force, by its server or by who finds it', async t => {
  for (const end of [
    (disk: Detached) => run('delete', '--force', disk.path),
    async (disk: Detached) => {
      await disk.signal('SIGTERM', { ends: false })
      await sleep(400)
      await disk.signal('SIGTERM')
      return SILENT
    },
  ]) {
    const silent = moduleThat('').replace('disk.mjs', 'silent.mjs')
    writeFileSync(
      silent,
      'export default () => ({ size: 2 ** 20, read: async () => await new Promise(() => {}) })',
    )
    const hangs = await Detached.create(`--worker ${silent}`)
    const reading = sh('dd if="$1" bs=4096 count=1 iflag=direct status=none || true', hangs.path)
    const { status, stdout, stderr } = await end(hangs)
    t.is(status, 0)
    t.is(stdout, '')
    // On a busy machine it takes long enough to be reported.
    t.regex(stderr, /^(?:ublk-ts: [^\n]*is being removed: the kernel waits for [^\n]*\n)*$/)
    await reading
    await until(() => leftovers().length === 0, 'the server ends')
    t.deepEqual(nodes(), [])
  }
})
