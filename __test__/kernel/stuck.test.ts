import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { Detached, gone, leaveNoServerBehind } from '../support/detached.js'
import { type Result, run, sh, shell } from '../support/program.js'
import { Server, until } from '../support/server.js'

leaveNoServerBehind(test)

/** Runs a command that must end within `seconds`. */
async function within(seconds: number, ...words: string[]): Promise<Result> {
  const late = sleep(seconds * 1000, 'late' as const, { ref: false })
  const ended = await Promise.race([run(...words), late])
  if (ended === 'late') throw new Error(`ublk-ts ${words.join(' ')} took longer than ${seconds} s`)
  return ended
}

/** Writes a block with O_DIRECT, which waits for the disk's server. */
function writer(path: string): { ended: Promise<unknown> } {
  const child = shell('exec dd if=/dev/zero of="$1" bs=4k count=1 oflag=direct status=none', path)
  return { ended: once(child, 'close') }
}

async function inFlight(id: number): Promise<void> {
  const stat = (): string[] => readFileSync(`/sys/block/ublkb${id}/stat`, 'utf8').trim().split(/\s+/)
  await until(() => Number(stat()[8]) > 0, 'a request is in flight')
}

/** Every listing ends although one server does not answer, and reports that server. */
async function listings(t: ExecutionContext, id: number): Promise<void> {
  for (const words of [
    ['list'],
    ['show', `${id}`],
    ['list', '-o', 'users'],
    ['metrics'],
    ['stats'],
    ['doctor'],
  ]) {
    const { status, stderr } = await within(8, ...words)
    t.is(status, 0, `${words.join(' ')}: ${stderr}`)
  }
  t.regex((await within(8, 'stats')).stderr, new RegExp(`/dev/ublkb${id} is left out: .* is stopped`))
}

test('the forced end of a disk whose server is stopped ends, and no listing waits for it', async t => {
  for (const [at, words] of ['--file /tmp/stuck', '--file /tmp/stuck --recovery reissue'].entries()) {
    await sh('truncate -s 16M /tmp/stuck')
    const disk = await Detached.create(words)
    const { id, pid } = disk
    process.kill(pid, 'SIGSTOP')
    const client = writer(disk.path)
    await inFlight(id)
    if (at === 0) await listings(t, id)
    const refused = await within(8, 'delete', `${id}`)
    t.is(refused.status, 1)
    t.regex(
      refused.stderr,
      new RegExp(
        `^ublk-ts: the server of /dev/ublkb${id}, process ${pid} \\(.*\\), is stopped; continue it \\(kill -CONT ${pid}\\)`,
      ),
    )
    const { status, stderr } = await within(20, 'delete', '--force', `${id}`)
    t.is(status, 0, stderr)
    t.regex(
      stderr,
      new RegExp(`process ${pid} \\(.*\\), which serves device ${id}, was stopped: continued it\n`),
    )
    await client.ended
    await gone(pid)
    t.false(existsSync(`/dev/ublkc${id}`))
  }
  await sh('rm /tmp/stuck')
})

/** A program with two disks without records; a write to the first one puts its event loop into an endless loop. */
const PROGRAM = `
  import { memory, UblkDevice } from 'ublk-ts'
  const backend = { size: 2 ** 24, read() {}, write() { if (process.argv.length > 0) for (;;); } }
  const one = await UblkDevice.create({ backend })
  const other = await UblkDevice.create({ backend: memory('16M') })
  console.log(one.path + ' ' + other.path)
`

test('a server that answers nothing is killed by force, and it is said what goes with it', async t => {
  const server = await Server.program(PROGRAM)
  const [one = '', other = ''] = server.line.split(' ')
  const number = (path: string): number => Number(path.slice('/dev/ublkb'.length))
  const client = writer(one)
  await inFlight(number(one))
  const { status, stderr } = await within(30, 'delete', '--force', one)
  t.is(status, 0, stderr)
  t.regex(
    stderr,
    new RegExp(
      `killed process ${server.pid} \\(.*\\), which served device ${number(one)} and also ${number(other)}: it did not answer`,
    ),
  )
  await client.ended
  t.is((await server.ended).signal, 'SIGKILL')
  t.is((await within(8, 'delete', other)).status, 0)
})

test('a stopped program goes on with its other disks', async t => {
  const server = await Server.program(`
    import { memory, UblkDevice } from 'ublk-ts'
    const one = await UblkDevice.create({ backend: memory('16M') })
    const other = await UblkDevice.create({ backend: memory('16M') })
    one.on('exit', () => {})
    console.log(one.path + ' ' + other.path)
  `)
  const [one = '', other = ''] = server.line.split(' ')
  server.signal('SIGSTOP')
  const { status, stderr } = await within(20, 'delete', '--force', one)
  t.is(status, 0, stderr)
  t.regex(stderr, /was stopped: continued it/)
  await sh('dd if=/dev/zero of="$1" bs=4k count=1 oflag=direct status=none', other)
  await within(10, 'delete', other)
  server.signal('SIGKILL')
  await server.ended
})

test('what is written back to a slow disk is waited for, and that is told', async t => {
  await sh(`truncate -s 16M /tmp/slow; losetup /dev/loop6 /tmp/slow
    dmsetup create slow --table '0 32768 delay /dev/loop6 0 0 /dev/loop6 0 100'`)
  const medium = (await sh('dmsetup info -c --noheadings -o blkdevname slow')).trim()
  const disk = await Detached.create(`--file /dev/${medium} --direct --depth 1 --max-io 64K`)
  // 80 requests of at least 0.1 s, which the page cache sends one by one.
  const written = shell('exec dd if=/dev/zero of="$1" bs=64k count=80 status=none', disk.path)
  await sleep(1000)
  const { pid } = disk
  const deletion = within(80, 'delete', '--force', disk.path)
  await sleep(5000)
  // The driver holds the device's lock.
  t.regex(
    (await within(8, 'list', '-n', '-o', 'id,state')).stdout,
    new RegExp(`^ *${disk.id} +(?:live|stopping)\\n$`),
  )
  const { status, stderr } = await deletion
  t.is(status, 0, stderr)
  const told = stderr.trimEnd().split('\n')
  t.true(told.length >= 2, stderr)
  const line =
    /^ublk-ts: \/dev\/ublkb\d+ is being removed: the kernel waits for (?:\d+ requests? in flight, \d+ answered|its last requests) after \d+ s$/
  for (const each of told) t.regex(each, line)
  t.false(existsSync(`/dev/ublkc${disk.id}`))
  await gone(pid)
  written.kill()
  await sh('dmsetup remove slow; losetup -d /dev/loop6; rm /tmp/slow')
})
