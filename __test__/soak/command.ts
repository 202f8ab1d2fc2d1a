import { spawn } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import { MAIN, type Result, result } from '../support/program.js'
import { noteSlow, told } from './tally.js'
import { Broken, stacks } from './trouble.js'

/** A signal that a command gets while it runs. */
export interface Interruption {
  readonly name: NodeJS.Signals
  /** When, in milliseconds from its start. */
  readonly after: number
}

export interface Running {
  /** Tells whose command it is, and all that it starts: it is in their environment. */
  readonly mark: string
  /** How long it may take, in milliseconds. */
  readonly bound: number
  readonly interruption?: Interruption | undefined
}

/** What no failure may be about, since no random order excuses it. */
const INEXCUSABLE =
  /unexpected failure|took longer|did not (answer|come up|end|become)|does not answer|not usable after|could not be taken back|\bat \S+:\d+:\d+|panic|\[object|undefined/

/**
 * Runs `ublk-ts` to its end. It may fail, in one line that does not speak of trouble.
 *
 * @throws Broken if it hangs, dies, or fails in another way.
 */
export async function ublk(
  words: readonly string[],
  { mark, bound, interruption }: Running,
): Promise<Result> {
  const child = spawn(process.execPath, [...process.execArgv, MAIN, ...words], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, [MARK]: mark },
  })
  const ending = result(child)
  if (interruption) void sleep(interruption.after).then(() => child.kill(interruption.name))
  const what = `ublk-ts ${words.join(' ')}`
  const began = performance.now()
  let where = ''
  const slow = setTimeout(() => {
    where = stacks()
  }, bound / 4)
  const ended = await Promise.race([ending, sleep(bound, 'late' as const, { ref: false })])
  clearTimeout(slow)
  if (ended === 'late') throw new Broken(`${what}: still runs after ${bound / 1000} s`, where)
  const { status, signal, stderr } = ended
  if (where !== '') noteSlow(`${what} took ${Math.round((performance.now() - began) / 1000)} s`)
  const says = `${what}: ${signal ?? `status ${status}`}: ${stderr}`
  // Before it listens to signals, or to one that it does not listen to.
  if (signal && signal === interruption?.name && stderr === '') return ended
  if (status === 0 ? stderr !== '' : !/^ublk-ts: [^\n]+\n$/.test(stderr)) throw new Broken(says)
  if (![0, 1].includes(status ?? -1) || INEXCUSABLE.test(stderr)) throw new Broken(says, where)
  told(words[0] ?? '', stderr)
  return ended
}

/** The variable that holds the mark. */
export const MARK = 'UBLK_TS_CHURN'
