import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import test from 'ava'
import type { CrashState } from 'ublk-ts'
import { Check, type Verdict } from '../../dist/cli/crash/check.js'
import { sh } from '../support/program.js'
import { until } from '../support/server.js'

const DIR = mkdtempSync('/tmp/check-')
test.after.always(() => rmSync(DIR, { recursive: true }))

/** A state whose disk is a path, and says when it was deleted. */
function stateOf(marks: readonly string[]): { state: CrashState; deleted: () => number } {
  let deleted = 0
  const disk = {
    id: 999_999,
    path: '/dev/no-disk',
    delete: async () => {
      deleted++
    },
  }
  return {
    state: { id: '7.1', marks, lost: [], disk: async () => disk } as unknown as CrashState,
    deleted: () => deleted,
  }
}

async function verdictOf(
  words: string[],
  { marks = [], timeout = 0, ends = new AbortController().signal } = {} as {
    marks?: readonly string[]
    timeout?: number
    ends?: AbortSignal
  },
): Promise<Verdict> {
  const { state, deleted } = stateOf(marks)
  const [verdict] = await Promise.allSettled([new Check(words, { timeout, ends }).of(state)])
  if (deleted() !== 1) throw new Error(`the disk was deleted ${deleted()} times`)
  if (verdict.status === 'rejected') throw verdict.reason
  return verdict.value
}

/** Whether no process of a group runs. */
async function isGone(group: string): Promise<boolean> {
  return await sh('! pgrep -g "$1" --runstates RSDT', group).then(
    () => true,
    () => false,
  )
}

test('the exit status of the command is the verdict', async t => {
  t.like(await verdictOf(['true']), { accepted: true, status: 0, end: 'status 0', output: '' })
  t.like(await verdictOf(['sh', '-c', 'echo no; echo why >&2; exit 7']), {
    accepted: false,
    status: 7,
    end: 'status 7',
    output: 'no\nwhy\n',
  })
  t.like(await verdictOf(['sh', '-c', 'kill -SEGV $$']), { accepted: false, status: 139, end: 'SIGSEGV' })
})

test('the command gets the disk, the state and its marks', async t => {
  const print = 'printf "%s|" "$1" "$UBLK_TS_DISK" "$UBLK_TS_STATE" "$UBLK_TS_MARK" "$UBLK_TS_MARKS"'
  const output = async (marks: readonly string[]): Promise<string[]> =>
    (await verdictOf(['sh', '-c', print, 'sh', '<{}>'], { marks })).output.split('|')
  t.deepEqual(await output([]), ['</dev/no-disk>', '/dev/no-disk', '7.1', '', '', ''])
  t.deepEqual((await output(['paid 1', 'a\nb\0'])).slice(3), ['a b ', 'paid 1\na b ', ''])
  const many = Array.from({ length: 20_000 }, (_, at) => `mark ${at}`)
  const lines = 'printf "%s" "$UBLK_TS_MARKS" | sed -n "1p;\\$p"; echo; printf "%s" "$UBLK_TS_MARKS" | wc -c'
  const [first = '', last, length] = (await verdictOf(['sh', '-c', lines], { marks: many })).output.split(
    '\n',
  )
  t.regex(first, /^mark \d{5}$/)
  t.is(last, 'mark 19999')
  t.true(Number(length) > 39_000 && Number(length) <= 40_000, length)
})

test('a command that does not exist is no verdict', async t => {
  await t.throwsAsync(verdictOf(['/no/such']), {
    message: 'cannot run /no/such: there is no such command',
    name: 'UblkError',
  })
})

test('a command that takes too long is killed with what it has started', async t => {
  const script = `trap '' TERM; echo $$ >${DIR}/group; sleep 1000 & sleep 1000; sleep 1000`
  const verdict = await verdictOf(['sh', '-c', script], { timeout: 0.3 })
  t.like(verdict, { accepted: false, end: 'not ended after 0.3 s' })
  t.true(await isGone(readFileSync(`${DIR}/group`, 'utf8').trim()))
  // One that cleans up is given the time.
  const cleaning = `trap 'echo cleaned; exit 0' TERM; sleep 1000 & wait`
  t.like(await verdictOf(['sh', '-c', cleaning], { timeout: 0.3 }), { accepted: false, output: 'cleaned\n' })
})

test('what a command leaves running does not outlive it', async t => {
  t.like(await verdictOf(['sh', '-c', `echo $$ >${DIR}/left; sleep 1000 & exit 0`]), { accepted: true })
  t.true(await isGone(readFileSync(`${DIR}/left`, 'utf8').trim()))
})

test('an interruption ends the command', async t => {
  const ends = new AbortController()
  const ended = verdictOf(['sh', '-c', `echo $$ >${DIR}/interrupted; sleep 1000`], { ends: ends.signal })
  await until(() => existsSync(`${DIR}/interrupted`), 'it runs')
  ends.abort(new Error('interrupted'))
  await t.throwsAsync(ended, { message: 'interrupted' })
  t.true(await isGone(readFileSync(`${DIR}/interrupted`, 'utf8').trim()))
})
