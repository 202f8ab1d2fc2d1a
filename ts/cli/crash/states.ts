import { writeFileSync } from 'node:fs'
import { type Command, Option } from 'commander'
import { BUDGET, type CrashModel, type CrashStatesOptions, MODELS } from '../../crash-options.js'
import type { CrashState } from '../../crash-state.js'
import { invalid, UblkError } from '../../errors.js'
import { toJsonText } from '../../json.js'
import { parseSeconds } from '../../option-values.js'
import { reading } from '../option-reader.js'
import { print } from '../output.js'
import { times } from '../parse-numbers.js'
import { Check, type Verdict } from './check.js'
import { earliest } from './earliest.js'
import { Interruption } from './interruption.js'
import { junitOf } from './junit.js'
import { addLogOptions, type LogFlags, openLog } from './log.js'
import { Progress } from './progress.js'
import { failuresOf, jsonOf, type Report, textOf } from './report.js'
import { isFailure, tryStates } from './trials.js'

interface Flags extends LogFlags {
  budget?: number
  model?: CrashModel
  from?: string
  to?: string
  jobs: number
  timeout: number
  keepGoing?: boolean
  shrink?: boolean
  bisect?: boolean
  junit?: string
  json?: string
}

const HELP = `
The command gets a disk with what a power cut may have left; {} in its words is the path of that disk. It says with its exit status
whether that is acceptable: 0 if it is. In its environment are UBLK_TS_DISK (the path), UBLK_TS_STATE (the id of the state),
UBLK_TS_MARK (the mark that was set last before the power failed; empty if there was none) and UBLK_TS_MARKS (all of them, a line
each; the last 40000 characters). What it writes to the disk is thrown away. When it ends, its processes are killed, what it has
mounted is unmounted, and the disk is deleted. With --jobs, several commands run at the same time: each needs a mount point of its own.

LOG is a file of crash export, or of another program that writes the format of dm-log-writes; or a disk of crash record that is still
there. The states of a file are always the same, and have the same ids; those of a disk in use are not.

It ends at the first failure, unless --keep-going. --bisect then looks for the earliest power cut that fails: it halves the list of
marks, and each time tries --budget states before the mark in the middle; in the end those between two marks, in the order of time.
--shrink looks for the fewest lost writes with which the failure remains.

The exit status is 0 if all states were accepted, 1 if one was not, 2 if the command line is wrong.

Examples:
  ublk-ts crash states run.log -- e2fsck -fn {}
  ublk-ts crash states run.log --keep-going --junit report.xml -- ./check {}
  ublk-ts crash states run.log --shrink -- sh -c 'mount {} /mnt && ./check /mnt'`

/** Adds `ublk-ts crash states`. */
export function addStates(crash: Command): void {
  const command = crash
    .command('states')
    .description('run a command on the states in which a power cut may leave a recorded disk')
    .option('--budget <count>', 'try at most this many states (default: 1000)', times)
    .addOption(modelOption())
    .option('--from <mark>', 'the power fails after this mark')
    .option('--to <mark>', 'the power fails before this mark')
    .option('-j, --jobs <count>', 'run this many commands at the same time', times, 1)
    .option(
      '-t, --timeout <seconds>',
      'how long the command may take before it is killed, and the state fails; 0: forever',
      reading(parseSeconds),
      60,
    )
    .option('--keep-going', 'go on after a failure')
    .option('--shrink', 'look for the fewest lost writes with which the first failure remains')
    .option('--bisect', 'look for the earliest power cut that fails')
    .option('--junit <file>', "write a report for test runners there, in JUnit's XML")
    .option('--json <file>', 'write a report for programs there, in JSON')
  addLogOptions(command)
    .argument('<log>', 'the log, or the disk that is recorded')
    .argument('<command...>', 'the command and its arguments, after --')
    .addHelpText('after', HELP)
    .action(states)
}

/** `--model`. */
export function modelOption(): Option {
  return new Option(
    '--model <model>',
    'what the disk does with writes that are not durable; see docs/power-cuts.md (default: torn)',
  ).choices(Object.keys(MODELS))
}

async function states(log: string, command: string[], flags: Flags): Promise<void> {
  const { junit, json } = flags
  using interruption = new Interruption()
  try {
    const report = await reportOf(log, command, flags, interruption.signal)
    if (junit !== undefined) writeReport(junit, junitOf(report))
    if (json !== undefined) writeReport(json, `${toJsonText(jsonOf(report), 2)}\n`)
    await print(textOf(report))
    process.exitCode = failuresOf(report).length > 0 ? 1 : 0
  } catch (error) {
    if (interruption.status === undefined) throw error
    process.exitCode = interruption.status
  }
}

async function reportOf(log: string, command: string[], flags: Flags, ends: AbortSignal): Promise<Report> {
  const start = performance.now()
  await using disk = await openLog(log, flags, ends)
  const { jobs, keepGoing = false, timeout } = flags
  const check = new Check(command, { timeout, ends })
  using progress = new Progress(flags.budget ?? BUDGET)
  const tried = ({ accepted }: Verdict): void => progress.add(accepted)
  const options = statesOptions(flags)
  const trials = await tryStates(disk.crashStates(options), check, { jobs, keepGoing, tried })
  if (trials.length === 0) throw new UblkError('not-found', 'there is no state to try')
  const first = trials.find(isFailure)
  let worst = first
  if (first && flags.bisect) {
    progress.begin('looking for the earliest failure')
    worst = await earliest(disk, first, options, async states => {
      const trials = await tryStates(states, check, { jobs, keepGoing: false, tried })
      return trials.find(isFailure)
    })
  }
  if (worst && flags.shrink) progress.begin('looking for the fewest lost writes')
  const least = worst && flags.shrink ? await shrunk(worst.state, check, tried) : undefined
  return {
    log,
    command,
    replay: replayWords(log, flags),
    trials,
    ...(flags.bisect && { earliest: worst }),
    ...(least && { least }),
    seconds: (performance.now() - start) / 1000,
  }
}

/** The state with the fewest losses. What keeps the command from running does not count as a failure. */
async function shrunk(
  state: CrashState,
  check: Check,
  tried: (verdict: Verdict) => void,
): Promise<CrashState> {
  let trouble: { readonly error: unknown } | undefined
  const least = await state.shrink(async state => {
    if (trouble) return true
    try {
      const verdict = await check.of(state)
      tried(verdict)
      return verdict.accepted
    } catch (error) {
      trouble = { error }
      return true
    }
  })
  if (trouble) throw trouble.error
  return least
}

/** Which states are wanted. */
export function statesOptions({ budget, model, from, to }: Flags): CrashStatesOptions {
  return {
    ...(budget !== undefined && { budget }),
    ...(model !== undefined && { model }),
    ...(from !== undefined && { from }),
    ...(to !== undefined && { to }),
  }
}

/** What `crash replay` needs of this to find a state again. */
function replayWords(log: string, { model, size, unit, seed, over }: Flags): string[] {
  const given = { model, size, unit, seed, over: over && JSON.stringify(over) }
  const flags = Object.entries(given).flatMap(([name, value]) =>
    value === undefined ? [] : [`--${name}`, `${value}`],
  )
  return [...flags, log]
}

function writeReport(path: string, text: string): void {
  if (path === '') throw invalid('the report has no path')
  try {
    writeFileSync(path, text)
  } catch (cause) {
    throw new UblkError('system', `cannot write the report: ${(cause as Error).message}`, { cause })
  }
}
