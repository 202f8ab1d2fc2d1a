import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import type { CrashState, CrashStatesOptions } from 'ublk-ts'
import { appendBeginning, readBeginning } from '../../dist/cli/crash/beginning.js'
import type { Check, Verdict } from '../../dist/cli/crash/check.js'
import { earliest, momentOf } from '../../dist/cli/crash/earliest.js'
import { junitOf } from '../../dist/cli/crash/junit.js'
import { jsonOf, type Report, textOf } from '../../dist/cli/crash/report.js'
import { type Failure, type Trial, tryStates } from '../../dist/cli/crash/trials.js'
import { run, sh } from '../support/program.js'

const LOST = { write: 31, offset: 8192, length: 4096, op: 'write', meta: true, how: 'missing' } as const

function stateOf(id: string, marks: string[] = [], lost: readonly object[] = []): CrashState {
  return { id, marks, lost } as unknown as CrashState
}

function verdictOf(accepted: boolean, output = ''): Verdict {
  return { accepted, status: accepted ? 0 : 3, end: `status ${accepted ? 0 : 3}`, output, seconds: 0.25 }
}

function trialOf(id: string, accepted: boolean, marks: string[] = [], output = ''): Trial {
  return { state: stateOf(id, marks, accepted ? [] : [LOST]), verdict: verdictOf(accepted, output) }
}

const REPORT: Report = {
  log: 'my run.log',
  command: ['./check', '{}', "it's"],
  replay: ['--model', 'writes', 'my run.log'],
  trials: [
    trialOf('7.0', true, ['<0>']),
    trialOf('9.4', false, ['<0>', 'a & "b"'], 'first\nlast \x1b[31m\ud800 ]]>\n'),
  ],
  least: stateOf('9-31@8192+4096', ['<0>'], [LOST]),
  seconds: 1.5,
}

test('a report says what failed, what was lost, and how to have it again', t => {
  t.deepEqual(textOf(REPORT).split('\n'), [
    'state 9.4 failed, after mark a & "b": status 3: last \\x1b[31m\ud800 ]]>',
    'fewest lost writes: state 9-31@8192+4096, after mark <0>',
    '  lost: 4K at 8192 of write 31 (of the file system itself)',
    `again: ublk-ts crash replay --model writes 'my run.log' 9-31@8192+4096 -- ./check {} 'it'\\''s'`,
    '2 states tried, 1 failed',
  ])
  const [first] = REPORT.trials
  t.is(textOf({ ...REPORT, trials: [first as Trial], least: undefined }), '1 state accepted')
  t.like(jsonOf(REPORT), {
    states: 2,
    failed: 1,
    failures: [{ id: '9.4', marks: ['<0>', 'a & "b"'], end: 'status 3', lost: [LOST] }],
    earliest: null,
    least: { id: '9-31@8192+4096' },
  })
})

test('a report in XML is read as what it was made of', async t => {
  const script = `import sys, json, xml.etree.ElementTree as tree
suite = tree.fromstring(sys.argv[1].encode()).find("testsuite")
cases = [[case.attrib, [[f.attrib, f.text] for f in case.findall("failure")]] for case in suite.findall("testcase")]
print(json.dumps([suite.attrib, cases, suite.find("system-out").text]))`
  const [suite, cases, out] = JSON.parse(await sh('python3 -c "$1" "$2"', script, junitOf(REPORT)))
  t.deepEqual(suite, {
    name: 'power cuts of my run.log',
    tests: '2',
    failures: '1',
    errors: '0',
    time: '1.500',
  })
  const [passed, failed] = cases
  t.deepEqual(passed, [{ name: 'state 7.0', classname: 'after mark <0>', time: '0.250' }, []])
  t.deepEqual(failed[0], { name: 'state 9.4', classname: 'after mark a & "b"', time: '0.250' })
  const [[about, text]] = failed[1]
  t.deepEqual(about, { message: 'status 3', type: 'power cut' })
  t.is(text.split('\n')[1], 'last \ufffd[31m\ufffd ]]>')
  t.regex(text, /\n {2}lost: 4K at 8192.*\nublk-ts crash replay/)
  t.regex(out, /^fewest lost writes: state 9-31@8192\+4096\n/)
})

/** A command that accepts what it is told to, and takes different times. */
function checkOf(accepts: (state: CrashState) => boolean): Check & { most: number } {
  let running = 0
  const check = {
    most: 0,
    async of(state: CrashState): Promise<Verdict> {
      check.most = Math.max(check.most, ++running)
      for (let turns = Number(state.id) % 5; turns >= 0; turns--) await new Promise(setImmediate)
      running--
      return verdictOf(accepts(state))
    },
  }
  return check as unknown as Check & { most: number }
}

const STATES = Array.from({ length: 40 }, (_, at) => stateOf(`${at}`))

for (const jobs of [1, 4]) {
  test(`${jobs} at a time: states are tried up to the first failure, or all of them`, async t => {
    const check = checkOf(({ id }) => !['17', '18', '30'].includes(id))
    const ids = (trials: readonly Trial[]): string[] => trials.map(({ state }) => state.id)
    const some = await tryStates(STATES, check, { jobs, keepGoing: false })
    t.deepEqual(ids(some), ids(STATES.slice(0, 18).map(state => ({ state, verdict: verdictOf(true) }))))
    const all = await tryStates(STATES, check, { jobs, keepGoing: true })
    t.deepEqual(ids(all.filter(({ verdict }) => !verdict.accepted)), ['17', '18', '30'])
    t.is(all.length, 40)
    t.is(check.most, jobs)
  })
}

test('what keeps the command from running ends all of it', async t => {
  const check = checkOf(({ id }) => {
    if (id === '5') throw new Error('no such command')
    return true
  })
  await t.throwsAsync(tryStates(STATES, check, { jobs: 3, keepGoing: true }), { message: 'no such command' })
})

/** A log with a state at each moment, and a mark after every tenth. */
function logOf(moments: number): { crashStates(options: CrashStatesOptions): AsyncGenerator<CrashState> } {
  const at = (mark: string | undefined, otherwise: number): number =>
    mark === undefined ? otherwise : Number(mark) * 10
  return {
    async *crashStates({ from, to }) {
      for (let moment = at(to, moments); moment > at(from, 0); moment--) {
        const marks = Array.from({ length: Math.ceil(moment / 10) - 1 }, (_, at) => `${at + 1}`)
        yield stateOf(`${moment}.0`, marks)
      }
    },
  }
}

test('the earliest power cut that fails is found', async t => {
  for (const [from, failing] of [
    [undefined, [95, 41, 43, 77]],
    [undefined, [3]],
    ['2', [3, 98, 24]],
    [undefined, [100, 99]],
  ] as const) {
    let attempts = 0
    const attempt = async (
      states: AsyncIterable<CrashState> | Iterable<CrashState>,
    ): Promise<Failure | undefined> => {
      attempts++
      for await (const state of states)
        if (failing.includes(momentOf(state) as never)) return { state, verdict: verdictOf(false) }
      return undefined
    }
    const log = logOf(100)
    const options = from === undefined ? {} : { from }
    const first = await attempt(log.crashStates(options))
    const found = await earliest(log as never, first as Failure, options, attempt)
    const wanted = failing.filter(moment => moment > Number(from ?? 0) * 10)
    t.is(momentOf(found.state), Math.min(...wanted))
    t.true(attempts <= 6, `${attempts}`)
  }
})

test('what stands behind a log is read, and anything else is not', async t => {
  const dir = mkdtempSync('/tmp/log-')
  t.teardown(() => rmSync(dir, { recursive: true }))
  const path = join(dir, 'log')
  for (const before of ['', 'x'.repeat(5000)]) {
    writeFileSync(path, before)
    t.deepEqual(await readBeginning(path), {})
    await appendBeginning(path, { size: 2 ** 24, unit: 512, seed: 7 })
    t.deepEqual(await readBeginning(path), { size: 2 ** 24, unit: 512, seed: 7 })
    appendFileSync(path, 'x')
    t.deepEqual(await readBeginning(path), {})
  }
  for (const end of [
    '[1]\x03\0\0\0\0\0\0\0',
    'null\x04\0\0\0\0\0\0\0',
    '{}\xff\xff\xff\xff\xff\xff\xff\x7f',
  ]) {
    writeFileSync(path, Buffer.from(`${end}ublk-ts\n`, 'latin1'))
    t.deepEqual(await readBeginning(path), {})
  }
})

test('a wrong command line is refused, and nothing is done', async t => {
  for (const [words, line] of [
    ['states run.log', "missing required argument 'command'"],
    ['states --model no run.log -- true', /--model.*'no' is invalid. Allowed choices are prefix/],
    ['states --jobs 0 run.log -- true', /--jobs.*It must be a whole number from 1/],
    ['states --over {x} run.log -- true', /--over.*It must be JSON/],
    ['mark', "missing required argument 'device'"],
    ['mark +nothing a', /'\+nothing' is not a ublk device/],
    ['record', /no backend given/],
    ['record --mem 1M --unit 4K', /--unit.*'4K' is invalid/],
    ['record --mem 1M --recovery reissue', /--recovery is not for crash record/],
    ['record --mem 1M --fault op=write,errno=EIO', /unknown option '--fault'/],
    ['replay run.log', "missing required argument 'state'"],
    ['nothing', /unknown command 'nothing'/],
    ['', /no command given/],
  ] as const) {
    const { status, stdout, stderr } = await run('crash', ...words.split(' ').filter(word => word !== ''))
    t.is(status, 2, words)
    t.is(stdout, '')
    t.regex(stderr, typeof line === 'string' ? new RegExp(line) : line)
    t.is(stderr.trim().split('\n').length, 1, stderr)
  }
  const missing = await run('crash', 'states', '/no/log', '--', 'true', '--budget')
  t.is(missing.status, 1)
  t.regex(missing.stderr, /^ublk-ts: there is no log \/no\/log; crash export writes one\n$/)
})

test("the document's commands for Go are right", async t => {
  const text = readFileSync(new URL('../../docs/power-cuts.md', import.meta.url), 'utf8')
  const [, code = ''] = /^```go\n(.*?)^```$/ms.exec(text) ?? []
  const commands = [...code.matchAll(/exec\.Command\("ublk-ts", (.*?)\)\./g)].map(([, list = '']) =>
    list.split(', ').map(word => (word === 'path' ? '/dev/ublkb1048575' : (JSON.parse(word) as string))),
  )
  t.is(commands.length, 4)
  // There is no such disk and no such log: nothing else is wrong.
  for (const words of commands.slice(1)) t.is((await run(...words)).status, 1, words.join(' '))
  t.is((await run(...(commands[0] as string[]), '--help')).status, 0)
})
