// seconds: 90
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import test from 'ava'
import { features, memory, nullDisk, type ServingChoice, UblkDevice } from 'ublk-ts'
import { Detached, gone, leaveNoServerBehind, leftovers, RUN_DIR } from '../support/detached.js'
import { nodes } from '../support/devices.js'
import { automatic } from '../support/modes.js'
import { MAIN, type Result, result, run, sh, shell } from '../support/program.js'
import { Server, until } from '../support/server.js'

leaveNoServerBehind(test)

const SILENT = { status: 0, signal: null, stdout: '', stderr: '' }

/** What `ublk-ts doctor` says of records. */
async function recordsCheck(): Promise<string> {
  const { stdout } = await run('doctor')
  return stdout.split('\n').find(line => line.split(/ +/)[1] === 'records') ?? ''
}

test('a disk in the foreground has a record and a socket, and neither is left', async t => {
  await Server.with('--mem 16M', async ({ id, pid }) => {
    const { version, server, options, log, notes } = new Detached(`/dev/ublkb${id}`).record
    t.deepEqual([version, server.pid, log], [1, pid, null])
    t.deepEqual(notes.detached, false)
    t.is(options.backend.size, 2 ** 24)
    t.like((await (await UblkDevice.open(id)).stats())[0], { queue: 0 })
    t.regex(await recordsCheck(), /^ok /)
  })
  t.deepEqual(leftovers(), [])
})

test('a disk of the API has a record if that is wished', async t => {
  const disk = await UblkDevice.create({ backend: memory('1M'), record: { notes: { mine: [1] } } })
  const record = new Detached(disk.path).record
  t.deepEqual([record.server.pid, record.notes], [process.pid, { mine: [1] }])
  await disk.delete()
  t.deepEqual(leftovers(), [])
  await using plain = await UblkDevice.create({ backend: memory('1M') })
  t.false(existsSync(`${RUN_DIR}/${plain.id}.json`))
})

test('a record says how its disk is served, and why, as long as the disk exists', async t => {
  const disk = await Detached.create('--mem 16M --recovery reissue --copy copy')
  const { choice } = disk.record
  t.like(choice, { copy: 'copy', copyBecause: 'asked for' })
  t.not(choice.transportBecause, 'asked for')
  const told = async (): Promise<ServingChoice | undefined> => (await UblkDevice.open(disk.id)).choice
  t.deepEqual(await told(), choice)
  await disk.signal('SIGKILL')
  t.deepEqual(await told(), choice, 'without a server')
  t.is((await run('recover', disk.path)).status, 0)
  t.deepEqual([disk.record.choice, await told()], [choice, choice], 'with the next one')
  if ((await features()).some(({ name, supported }) => name === 'QUIESCE' && supported)) {
    t.is((await run('upgrade', disk.path)).status, 0)
    t.deepEqual([disk.record.choice, await told()], [choice, choice], 'after an upgrade')
  }
  t.deepEqual(await run('delete', disk.path), SILENT)
})

test('a record of an earlier version, which does not say how a disk is served, is read', async t => {
  const disk = await Detached.create('--mem 16M --recovery reissue')
  const { choice: _, ...rest } = disk.record
  writeFileSync(disk.recordPath, JSON.stringify(rest))
  t.regex(await recordsCheck(), /^ok /)
  t.is((await UblkDevice.open(disk.id)).choice, undefined)
  const row = async (): Promise<object> =>
    JSON.parse((await run('show', disk.path, '--json')).stdout).ublkdevices[0]
  const served = automatic('memory')
  t.like(await row(), { ...served, 'transport-why': null, 'copy-why': null })
  await disk.signal('SIGKILL')
  t.is((await run('recover', disk.path)).status, 0)
  t.like(await row(), {
    ...served,
    'transport-why': 'set when the device was created',
    'copy-why': 'set when the device was created',
  })
  t.deepEqual(await run('delete', disk.path), SILENT)
})

test('options that cannot be recorded are refused before there is a device', async t => {
  const backend = { size: 2 ** 20, read: () => {} }
  await t.throwsAsync(UblkDevice.create({ backend, record: true }), { message: /cannot be recorded/ })
  t.deepEqual(nodes(), [])
})

test('the record and the socket of a disk are gone when its process exits', async t => {
  const server = await Server.program(`
    import { memory, UblkDevice } from 'ublk-ts'
    const disk = await UblkDevice.create({ backend: memory('1M'), record: true })
    process.on('SIGTERM', () => process.exit(3))
    console.log(disk.path)`)
  t.true(existsSync(`${RUN_DIR}/${server.id}.json`))
  t.is((await server.interrupt('SIGTERM')).status, 3)
  t.deepEqual([nodes(), leftovers()], [[], []])
})

test('a process that has the number of a dead server is not taken for it', async t => {
  const words = '--mem 16M --recovery reissue --id 6'
  const disk = await Detached.create(words)
  await sh('echo hello | dd of="$1" conv=fsync status=none', disk.path)
  await disk.signal('SIGKILL')
  const { record } = disk
  const reuse = (pid: number): void => {
    writeFileSync(disk.recordPath, JSON.stringify({ ...record, server: { ...record.server, pid } }))
  }
  const row = async (): Promise<string> => (await run('list', '-n', '-o', 'id,state')).stdout

  // What a server made that is killed before its disk is usable is removed, and nothing else.
  const module = '/tmp/never.mjs'
  writeFileSync(module, 'await new Promise(() => setInterval(() => {}, 1e6))')
  const starter = shell('exec "$@"', process.execPath, MAIN, 'create', '--detach', '--worker', module)
  const ended = result(starter)
  let server = 0
  await until(async () => {
    server = Number(await sh('pgrep -P "$1" || true', `${starter.pid}`))
    return server > 0
  }, 'a server is started')
  reuse(server)
  process.kill(server, 'SIGKILL')
  t.is((await ended).status, 1)
  t.regex(await row(), /^ *6 +quiesced\n$/)

  reuse(process.pid)
  await Detached.create(`${words} --or-recover`)
  t.is(await sh('head -c 5 "$1"', disk.path), 'hello')
  t.deepEqual(await run('delete', disk.path), SILENT)
})

test('delete removes what a server left that was killed', async t => {
  const disk = await Detached.create('--mem 16M')
  await disk.signal('SIGKILL')
  t.true(leftovers().includes(`${disk.id}.json`))
  for (const kind of ['json', 'sock']) writeFileSync(`${RUN_DIR}/${disk.id}.${kind}.999999`, 'unfinished')
  t.is((await run('list', '-n', '-o', 'state')).stdout, 'dead\n')
  t.deepEqual(await run('delete', disk.path), SILENT)
  t.deepEqual([nodes(), leftovers()], [[], []])
})

const damages: [string, (text: string) => string, RegExp][] = [
  [
    'is cut short',
    text => text.slice(0, text.length / 2),
    /the record of device \d+ cannot be used: it is truncated/,
  ],
  ['is empty', () => '', /cannot be used: it is truncated/],
  ['is no JSON', () => '{hello}', /cannot be used: it is not JSON/],
  ['is another JSON', () => '[1]', /cannot be used: its version is wrong/],
  [
    'has a wrong field',
    text => text.replace(/"pid": \d+/, '"pid": "x"'),
    /cannot be used: its server is wrong/,
  ],
  [
    'is of a newer version',
    text => text.replace('"version": 1', '"version": 2'),
    /cannot be used: it has version 2, from ublk-ts 0\.1\.0/,
  ],
  [
    'is of another boot',
    text => text.replace(/"boot": ".{4}/, '"boot": "0000'),
    /records of devices that no longer exist: \d+/,
  ],
  [
    'is of another device',
    text => text.replace(/"identity": "/, '"identity": "9'),
    /of devices that no longer exist: \d+/,
  ],
  [
    'says half of how its disk is served',
    text => text.replace('"copyBecause"', '"x"'),
    /cannot be used: its choice is wrong/,
  ],
]

test('a record that is damaged, or of something else, is told by doctor, and goes with its device', async t => {
  const disks = await Promise.all(
    damages.map(async () => {
      const { id, path } = await UblkDevice.create({ backend: nullDisk('16M'), record: true })
      return { id, path, recordPath: `${RUN_DIR}/${id}.json` }
    }),
  )
  for (const [at, [, damage]] of damages.entries()) {
    const path = disks[at]?.recordPath ?? ''
    writeFileSync(path, damage(readFileSync(path, 'utf8')))
  }
  const [check = '', remedy = ''] = (await recordsCheck()).split('; remedy: ublk-ts delete ')
  for (const [at, [what, , told]] of damages.entries()) {
    const id = disks[at]?.id
    const about = check.split('; ').filter(why => new RegExp(`\\b${id}\\b`).test(why.replace(/: it .*/, '')))
    t.regex(about.join(), told, what)
  }
  t.deepEqual(remedy.split(' ').map(Number).sort(), disks.map(({ id }) => id).sort())
  for (const [at, { path, recordPath }] of disks.entries()) {
    t.is((await run('show', path)).status, 0, damages[at]?.[0])
    t.deepEqual(await run('delete', path), SILENT)
    t.false(existsSync(recordPath))
  }
  await until(() => leftovers().length === 0, 'all is gone')
  t.deepEqual(nodes(), [])
})

test('what is recorded of no device is removed by delete, and replaced by create', async t => {
  const disk = await Detached.create('--null 16M --id 2')
  const text = readFileSync(disk.recordPath, 'utf8')
  t.deepEqual(await run('delete', '2'), SILENT)
  await until(() => leftovers().length === 0, 'the server ends')
  for (const [what, damage] of damages) {
    writeFileSync(disk.recordPath, damage(text))
    t.deepEqual(await run('delete', '2'), SILENT, what)
    t.deepEqual(leftovers(), [])
  }
  t.is((await run('delete', '2')).status, 1, 'there is nothing any more')
  for (const damage of [damages[0], damages[6]]) {
    writeFileSync(disk.recordPath, damage?.[1](text) ?? '')
    const next = await Detached.create('--null 16M --id 2')
    t.true(existsSync(`/proc/${next.pid}`))
    t.deepEqual(await run('delete', '2'), SILENT)
    await until(() => leftovers().length === 0, 'the server ends')
  }
})

test('a run directory that others may write to is refused, and no disk is made', async t => {
  await sh(`
    mkdir -p /tmp/open/mine /tmp/theirs/mine /tmp/sticky/mine
    chmod 777 /tmp/open; chmod 1777 /tmp/sticky; chown 1000 /tmp/theirs
    ln -sfn /tmp/open /tmp/link; ln -sfn ../theirs /tmp/sticky/link; ln -sfn mine /tmp/sticky/odd
    chown --no-dereference 1000 /tmp/sticky/odd`)
  for (const [dir, why] of [
    ['/tmp/open', 'others may write to it'],
    ['/tmp/theirs', 'it belongs to user 1000'],
    ['/tmp/link', 'it is no directory'],
    ['/tmp/open/mine', 'others may write to /tmp/open, and so replace it'],
    ['/tmp/link/mine', 'others may write to /tmp/open, and so replace it'],
    ['/tmp/theirs/mine', '/tmp/theirs belongs to user 1000, who could replace it'],
    ['/tmp/sticky/link/mine', '/tmp/theirs belongs to user 1000, who could replace it'],
    ['/tmp/sticky/odd/new', '/tmp/sticky/odd belongs to user 1000, who could replace it'],
    [`/tmp/${'x'.repeat(90)}`, 'its path has more than 80 bytes'],
    ['/proc/x', 'it cannot be made (ENOENT)'],
  ]) {
    for (const detach of ['', '--detach']) {
      const refused = await outcome(dir ?? '', `create --mem 16M ${detach}`)
      t.is(refused.status, 1)
      t.is(
        refused.stderr,
        `ublk-ts: the run directory ${dir} cannot be used: ${why}; set UBLK_TS_RUN_DIR to a directory of your own\n`,
      )
      t.deepEqual(nodes(), [])
    }
    t.is((await outcome(dir ?? '', 'list')).status, 0)
  }
  const fine = await outcome('/tmp/sticky/mine', 'create --mem 16M --detach')
  t.is(fine.stderr, '')
  t.is((await outcome('/tmp/sticky/mine', `delete ${fine.stdout.trim()}`)).status, 0)
})

/** Entries that may be at a record's path, which is `$1`. */
const unfit: [string, string, RegExp][] = [
  ['a pipe', 'mkfifo "$1"', /it is no regular file/],
  ['a directory', 'mkdir "$1"', /it is no regular file/],
  ['a link', 'ln -s /etc/passwd "$1"', /it is a symbolic link/],
  ['a file of 3 GB', 'truncate --size 3G "$1"', /it has more than 1048576 bytes/],
  ["another user's file", 'cp "$1.true" "$1"; chown nobody "$1"', /it belongs to user 65534/],
  ['a file that others may write to', 'cp "$1.true" "$1"; chmod 666 "$1"', /others may write to it/],
]

test('what is no private file is not taken for a record, and nothing waits for it', async t => {
  const disk = await Detached.create('--mem 16M --recovery reissue')
  const path = disk.recordPath
  await disk.signal('SIGKILL')
  await sh('mv "$1" "$1.true"', path)
  for (const [what, make, why] of unfit) {
    await sh(`rm -rf "$1"; ${make}`, path)
    t.is((await run('list')).status, 0, what)
    const refused = await run('recover', disk.path)
    t.is(refused.status, 1)
    t.regex(refused.stderr, /^ublk-ts: the record of device \d+ cannot be used: [^\n]*\n$/)
    t.regex(refused.stderr, why, what)
  }
  t.regex(await recordsCheck(), /others may write to it/)
  await sh('rm "$1"; mv "$1.true" "$1"', path)
  t.is((await run('recover', disk.path)).status, 0, 'the true one is as good as before')
  await disk.signal('SIGKILL')
  await sh('rm "$1"; mkfifo "$1"', path)
  t.deepEqual(await run('delete', disk.path), SILENT)
  await sh('rm /dev/shm/ublk-ts-*') // Only the record named it.
  t.deepEqual([nodes(), leftovers()], [[], []])
})

async function outcome(dir: string, words: string): Promise<Result> {
  return await run.shell(`${words}`, { UBLK_TS_RUN_DIR: dir })
}

test("a run directory of one's own is made when it is needed", async t => {
  const dir = '/tmp/own'
  const { status, stdout } = await outcome(dir, 'create --mem 16M --detach')
  t.is(status, 0)
  t.is(await sh('stat -c %a "$1"', dir), '700\n')
  t.true(existsSync(`${dir}/${stdout.trim().slice('/dev/ublkb'.length)}.json`))
  t.is((await outcome(dir, `delete ${stdout.trim()}`)).status, 0)
  await until(() => leftovers().length === 0, 'the server ends')
  t.is(await sh('ls "$1" | grep -v log$ || true', dir), '')
})

test('two deletes at once both find the device gone', async t => {
  for (let round = 0; round < 5; round++) {
    const { id, pid } = await Detached.create('--mem 16M')
    const both = await Promise.all([run('delete', `${id}`), run('delete', `${id}`)])
    for (const { status, stderr } of both) {
      if (status !== 0) t.regex(stderr, /^ublk-ts: [^\n]*there is no ublk device[^\n]*\n$/)
    }
    t.true(both.some(({ status }) => status === 0))
    await gone(pid)
    t.deepEqual([nodes(), leftovers()], [[], []])
  }
})

test('a device that is deleted while it is made is gone, and whoever made it says so', async t => {
  for (let round = 0; round < 5; round++) {
    const making = run('create', '--mem', '16M', '--id', '6', '--detach')
    await until(() => nodes().includes('ublkc6'), 'the device is there')
    const deleted = await run('delete', '--force', '6')
    const made = await making
    if (made.status === 0) t.is(deleted.status, 0)
    else t.regex(made.stderr, /^ublk-ts: [^\n]+\n$/)
    await until(() => leftovers().length === 0, 'its server ends')
    t.deepEqual(nodes(), [])
  }
})
