import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { powercut, UblkDevice } from 'ublk-ts'
import { leaveNoServerBehind } from '../support/detached.js'
import { FLAGS, MAIN, type Result, result, run, sh } from '../support/program.js'
import { Server, until } from '../support/server.js'

leaveNoServerBehind(test)

const DIR = mkdtempSync('/dev/shm/crash-cli-')
const MOUNT = join(DIR, 'mnt')
const GOOD = join(DIR, 'good.log')
const WRONG = join(DIR, 'wrong.log')

/** The programs of the document, each in a file; `ublk-ts` is a command there. */
const program = (name: string): string => join(DIR, name)

test.before(async () => {
  const text = readFileSync(new URL('../../docs/power-cuts.md', import.meta.url), 'utf8')
  for (const [, code = '', name = ''] of text.matchAll(/^```(?:sh|py)\n(# (power\S+)\n.*?)^```$/gms)) {
    writeFileSync(program(name), code)
  }
  const words = [process.execPath, ...FLAGS, MAIN].map(word => `'${word}'`).join(' ')
  writeFileSync(program('ublk-ts'), `#!/bin/sh\nexec ${words} "$@"\n`, { mode: 0o755 })
  await sh('mkdir "$1"', MOUNT)
})
test.after.always(async () => {
  await sh('umount "$1" 2>/dev/null || :', MOUNT)
  rmSync(DIR, { recursive: true, force: true })
})

/** Runs one of the programs. */
async function runs(...words: string[]): Promise<Result> {
  return await result(
    spawn(words[0] as string, words.slice(1), {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, PATH: `${DIR}:${process.env['PATH']}`, TMPDIR: DIR },
    }),
  )
}

/** Looks at a state: the number is the one that was promised last, or the next. It fails while the disk is mounted. */
const CHECK = [
  'sh',
  '-ec',
  `mount "$1" ${MOUNT}; found=$(cat ${MOUNT}/number)
  [ "$found" = "$UBLK_TS_MARK" ] || [ "$found" = $((UBLK_TS_MARK + 1)) ] || { echo "$found is there"; exit 3; }`,
  'check',
  '{}',
]

async function crash(...words: string[]): Promise<Result> {
  return await run('crash', ...words)
}

/** Records a program that does not make its rename durable, and neither does the kernel after some seconds. */
async function recordWrong(): Promise<void> {
  await using disk = await UblkDevice.create({ backend: powercut({ size: '16M' }) })
  await sh('mkfs.ext4 -q "$1"; mount -o commit=1000 "$1" "$2"; echo 0 >"$2/number"; sync', disk.path, MOUNT)
  disk.mark('0')
  for (const number of ['1', '2']) {
    await sh('echo $1 >"$2/new"; sync "$2/new"; mv "$2/new" "$2/number"', number, MOUNT)
    disk.mark(number)
  }
  await sh('umount "$1"', MOUNT)
  await disk.exportLog(WRONG)
}

/** Runs `crash states` with a command that hangs after it has mounted the disk. */
function hanging(words: readonly string[]): ChildProcess {
  const script = `mount "$1" ${MOUNT}; echo $$ >${DIR}/pid; sleep 1000 & sleep 1000`
  return spawn(
    process.execPath,
    [...FLAGS, MAIN, 'crash', 'states', ...words, '--from', '0', GOOD, '--', 'sh', '-c', script, 'sh', '{}'],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  )
}

/** No process of the command, and no mount of it. */
async function nothingIsLeft(): Promise<void> {
  const group = readFileSync(`${DIR}/pid`, 'utf8').trim()
  await sh('! mountpoint -q "$1"; ! pgrep -g "$2"; rm "$3/pid"', MOUNT, group, DIR)
}

test("the document's programs record, and their states are accepted", async t => {
  const shell = await runs('sh', program('power-cut.sh'), GOOD)
  t.deepEqual([shell.status, shell.stdout], [0, '10 states accepted\n'], shell.stderr)
  const python = await runs('python3', program('power_cut.py'), join(DIR, 'python.log'))
  t.is(python.status, 0, python.stderr)
  t.regex(python.stdout, /^[1-9]\d* states accepted\n$/)
})

test('a disk that is still recorded loses what is not flushed', async t => {
  await using disk = await UblkDevice.create({ backend: powercut({ size: '1M' }), record: true })
  await sh('echo one | dd of="$1" bs=4096 conv=sync oflag=direct status=none', disk.path)
  disk.mark('one')
  const script = '[ "$(head -c 3 "$UBLK_TS_DISK")" = one ]'
  const found = await crash('states', disk.path, '--from', 'one', '--shrink', '--', 'sh', '-c', script)
  t.is(found.status, 1, found.stderr)
  t.regex(found.stdout, /\nfewest lost writes: state \S+, after mark one\n {2}lost: 4K at 0 of write 0\n/)
})

test('several states are tried at a time, and a terminal shows how far it is', async t => {
  const script = join(DIR, 'check.sh')
  writeFileSync(script, CHECK[2] as string)
  const words = `crash states --from 0 --budget 4 --jobs 3 ${GOOD} -- unshare -m sh -e ${script} {}`
  const out = await sh('script -qec "$1" /dev/null', `${program('ublk-ts')} ${words}`)
  t.true(/\r\d of at most 4 states, [\d.]+\/s/.test(out), out)
  t.is(out.split('\x1b[K').at(-1), '4 states accepted\r\n')
})

test('a rename that is not made durable is found, shrunk, reported, and fails again', async t => {
  const [xml, json] = [join(DIR, 'report.xml'), join(DIR, 'report.json')]
  await recordWrong()
  const words = ['--from', '0', '--budget', '10', '--shrink', '--bisect', '--junit', xml, '--json', json]
  // A log of the library does not say how large the disk was.
  const { status, stdout, stderr } = await crash('states', '--size', '16M', ...words, WRONG, '--', ...CHECK)
  t.is(status, 1, stderr)
  t.log(stdout)
  const report = JSON.parse(readFileSync(json, 'utf8'))
  t.is(report.failed, 1)
  t.is(report.failures[0].end, 'status 3')
  t.regex(report.failures[0].output, /^\d is there\n$/)
  const writes = new Set(report.least.lost.map(({ write }: { write: number }) => write))
  t.true(writes.size <= 3, stdout)
  t.true(parseInt(report.earliest.id, 10) <= parseInt(report.failures[0].id, 10))
  t.is(report.earliest.marks.at(-1), '1', 'the first promise that was broken')
  t.regex(stdout, /^state \S+ failed, after mark \d: status 3: \d is there\n/)
  t.regex(stdout, /\nagain: ublk-ts crash replay --size 16777216 \S+\/wrong.log \S+ -- sh -ec '/)
  const parse = `import sys, xml.etree.ElementTree as tree
suite = tree.parse(sys.argv[1]).getroot().find("testsuite")
print(suite.get("tests"), suite.get("failures"), len(suite.findall("testcase/failure")))`
  t.is(await sh('python3 -c "$1" "$2"', parse, xml), `${report.states} 1 1\n`)
  const again = await crash('replay', '--size', '16M', WRONG, report.least.id, '--', ...CHECK)
  t.is(again.status, 3)
  t.regex(again.stdout, /^\d is there\n$/)
})

test('a state is served until SIGTERM', async t => {
  const server = await Server.command('crash', 'replay', GOOD, '100') // What was there then, without a loss.
  t.is(await sh('blockdev --getsize64 "$1"', server.path), '16777216\n')
  const { status, stdout, stderr } = await server.interrupt('SIGTERM')
  t.deepEqual([status, stdout, stderr], [0, `${server.path}\n`, ''])
})

test('a command that hangs is killed with what it has started, and its disk deleted', async t => {
  const { status, stdout, stderr } = await result(hanging(['--timeout', '1']))
  t.is(status, 1, stderr)
  t.regex(stdout, /^state \S+ failed, after mark 0: not ended after 1 s\n/)
  await nothingIsLeft()
  t.deepEqual(await UblkDevice.list(), [])
})

test('Ctrl-C ends the command, and leaves nothing', async t => {
  const states = hanging([])
  const ended = result(states)
  await until(() => existsSync(`${DIR}/pid`), 'the command runs')
  states.kill('SIGINT')
  const { status, stdout, stderr } = await ended
  t.deepEqual([status, stdout, stderr], [130, '', ''])
  await nothingIsLeft()
  t.deepEqual(await UblkDevice.list(), [])
})
