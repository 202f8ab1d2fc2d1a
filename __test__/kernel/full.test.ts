import { existsSync, statSync, writeFileSync } from 'node:fs'
import test, { type ExecutionContext } from 'ava'
import { features } from 'ublk-ts'
import { Detached, gone, leaveNoServerBehind, RUN_DIR } from '../support/detached.js'
import { run, sh } from '../support/program.js'
import { Server, until } from '../support/server.js'

leaveNoServerBehind(test)

const SILENT = { status: 0, signal: null, stdout: '', stderr: '' }

/** Runs a test with a small run directory. */
const inSmallRunDir = (what: string, body: (t: ExecutionContext) => Promise<void>): void => {
  test(what, async t => {
    await sh('mkdir -p -m 700 "$1"; mount -t tmpfs -o size=64k,mode=700 small "$1"', RUN_DIR)
    try {
      await body(t)
    } finally {
      await sh('umount --lazy "$1"', RUN_DIR)
    }
  })
}

/** Fills the run directory; `spare`: keeps the spare files. */
async function fill({ spare = true } = {}): Promise<void> {
  if (!spare) await sh('rm -f "$1"/*.spare', RUN_DIR)
  await sh('dd if=/dev/zero of="$1/full" bs=4k status=none 2>/dev/null || true', RUN_DIR)
  checkFull()
}

function checkFull(): void {
  try {
    writeFileSync(`${RUN_DIR}/more`, 'x')
  } catch {
    return
  }
  throw new Error('there is room')
}

async function empty(): Promise<void> {
  await sh('rm -f "$1/full" "$1/more"', RUN_DIR)
}

const pattern = (path: string): Promise<string> => sh('head -c 1M "$1" | sha1sum', path)

inSmallRunDir('a full run directory keeps no disk from being recovered, or upgraded', async t => {
  const disk = await Detached.create('--mem 16M --recovery reissue')
  await sh('head -c 1M /dev/urandom | dd of="$1" oflag=direct bs=1M iflag=fullblock status=none', disk.path)
  const sum = await pattern(disk.path)
  await fill()
  for (let round = 0; round < 2; round++) {
    await disk.signal('SIGKILL')
    const before = disk.pid
    t.deepEqual(await run('recover', disk.path), { ...SILENT, stdout: `${disk.path}\n` })
    t.not(disk.pid, before, 'the record names the new server')
    t.is(await pattern(disk.path), sum)
  }
  if ((await features()).some(({ name, supported }) => name === 'QUIESCE' && supported)) {
    const before = disk.pid
    t.is((await run('upgrade', disk.path)).status, 0)
    t.not(disk.pid, before)
    t.is(await pattern(disk.path), sum)
  }
  t.deepEqual(await run('delete', disk.path), SILENT)
  await empty()
})

inSmallRunDir('without room for a record a disk is served on, which is said, and recorded later', async t => {
  const disk = await Detached.create('--mem 16M --recovery reissue')
  const before = disk.pid
  await fill({ spare: false })
  await disk.signal('SIGKILL')
  const { status, stderr } = await run('recover', disk.path)
  t.is(status, 0)
  t.regex(
    stderr,
    /^ublk-ts: device \d+ is served, but its record could not be written; free space in \/run\/ublk-ts: [^\n]+\n$/,
  )
  t.is(disk.pid, before, 'the record is the old one')
  t.is((await run('list', '-n', '-o', 'state')).stdout, 'live\n')
  await pattern(disk.path)
  await empty()
  await until(() => disk.pid !== before, 'a record is written')
  t.true(existsSync(`/proc/${disk.pid}`))
  t.deepEqual(await run('delete', disk.path), SILENT)
})

inSmallRunDir(
  'a supervisor replaces a server though there is no room, for a record or a line of the log',
  async t => {
    const disk = await Detached.create('--mem 16M --recovery reissue --auto-restart')
    const before = disk.pid
    await fill({ spare: false })
    await disk.signal('SIGKILL')
    await until(async () => {
      const [pid, state] = (await run('list', '-n', '-o', 'pid,state')).stdout.trim().split(/ +/)
      return Number(pid) > 0 && Number(pid) !== before && state === 'live'
    }, 'another server serves it')
    await pattern(disk.path)
    await empty()
    await until(() => disk.pid !== before, 'a record is written')
    const { pid } = disk
    t.deepEqual(await run('delete', disk.path), SILENT)
    await gone(pid)
  },
)

inSmallRunDir('where there is no room for a record, no disk is made', async t => {
  await fill()
  const { status, stderr } = await run('create', '--mem', '16M', '--detach')
  t.is(status, 1)
  t.regex(stderr, /^ublk-ts: [^\n]*ENOSPC[^\n]*\n$/)
  await empty()
})

test('a disk whose requests all fail logs some of them, and how many more there were', async t => {
  const module = '/tmp/failing.mjs'
  writeFileSync(
    module,
    `import { defineBackend } from 'ublk-ts'
     const read = () => { throw new Error('as\\nalways') }
     export default defineBackend(() => ({ size: 2 ** 20, read }))`,
  )
  await sh('mkdir -p /tmp/node_modules; ln -sfn "$1" /tmp/node_modules/ublk-ts', process.cwd())
  const disk = await Detached.create(`--worker ${module}`)
  const log = `${RUN_DIR}/${disk.id}.log`
  const [before, began] = [disk.log.length, performance.now()]
  await sh(
    'for i in $(seq 300); do dd if="$1" of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null || true; done',
    disk.path,
  )
  const seconds = Math.ceil((performance.now() - began) / 1000)
  await until(
    () => disk.log.some(({ message }) => /^and \d+ more errors of/.test(message)),
    'the rest is counted',
  )
  const lines = disk.log.length - before
  t.true(lines <= 11 * (seconds + 2), `${lines} lines in ${seconds} s`)
  t.true(statSync(log).size < 20_000)
  t.true(disk.log.some(({ message }) => /always/.test(message)))
  t.deepEqual(await run('delete', disk.path), SILENT)
  const server = await Server.start(`--worker ${module}`)
  await sh('dd if="$1" of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null || true', server.path)
  await server.said(/always/)
  for (const line of (await server.interrupt()).stderr.trim().split('\n')) t.regex(line, /^ublk-ts: /)
})
