import type { CrashState, LostWrite } from '../../crash-state.js'
import { printable } from '../../printable.js'
import { formatSize } from '../../size.js'
import { type Failure, isFailure, type Trial } from './trials.js'

/** What was found out about a log. */
export interface Report {
  readonly log: string
  readonly command: readonly string[]
  /** The words with which a state is made again, without its id. */
  readonly replay: readonly string[]
  /** All states that were tried, in order. */
  readonly trials: readonly Trial[]
  /** The earliest failure, if it was looked for. */
  readonly earliest?: Failure | undefined
  /** The failure with the fewest losses, if it was looked for. */
  readonly least?: CrashState | undefined
  /** How long it took. */
  readonly seconds: number
}

/** How many losses of a state are named. */
const MOST_LOSSES = 5

/** How many failures are. The reports have all. */
const MOST_FAILURES = 20

/** Those that were not accepted. */
export function failuresOf({ trials }: Report): Failure[] {
  return trials.filter(isFailure)
}

/** The lines for people. */
export function textOf(report: Report): string {
  const { trials, earliest, least } = report
  const failures = failuresOf(report)
  const lines = failures
    .slice(0, MOST_FAILURES)
    .flatMap(({ state, verdict }) => [
      `state ${state.id} failed, ${whenOf(state)}: ${verdict.end}${lastLine(verdict.output)}`,
      ...(least === undefined ? lossesOf(state) : []),
    ])
  if (failures.length > MOST_FAILURES) lines.push(`and ${failures.length - MOST_FAILURES} more failures`)
  if (earliest) lines.push(`earliest failure: state ${earliest.state.id}, ${whenOf(earliest.state)}`)
  if (least) lines.push(`fewest lost writes: state ${least.id}, ${whenOf(least)}`, ...lossesOf(least))
  const worst = least ?? earliest?.state ?? failures[0]?.state
  if (worst) lines.push(`again: ${againOf(report, worst)}`)
  const count = `${trials.length} ${trials.length === 1 ? 'state' : 'states'}`
  lines.push(failures.length === 0 ? `${count} accepted` : `${count} tried, ${failures.length} failed`)
  return lines.join('\n')
}

/** The command that makes a state again. */
export function againOf({ replay, command }: Report, { id }: Trial['state']): string {
  return ['ublk-ts', 'crash', 'replay', ...replay, id, '--', ...command].map(quoted).join(' ')
}

/** `after mark 1`. */
export function whenOf({ marks }: Trial['state']): string {
  const last = marks.at(-1)
  return last === undefined ? 'before any mark' : `after mark ${printable(last)}`
}

/** A line for each loss. */
export function lossesOf({ lost }: Trial['state']): string[] {
  if (lost.length === 0)
    return ['  nothing is lost: what was promised had not been written, or the command is wrong']
  const more = lost.length - MOST_LOSSES
  return [
    ...lost.slice(0, MOST_LOSSES).map(loss => `  ${lossOf(loss)}`),
    ...(more > 0 ? [`  and ${more} more losses`] : []),
  ]
}

const HOW: Readonly<Record<LostWrite['how'], string>> = {
  missing: 'lost',
  garbage: 'garbage',
  moved: 'misdirected',
  flipped: 'with a wrong bit',
}

function lossOf({ write, op, offset, length, meta, how }: LostWrite): string {
  return `${HOW[how]}: ${formatSize(length)} at ${offset} of ${op} ${write}${meta ? ' (of the file system itself)' : ''}`
}

function lastLine(output: string): string {
  const line = output.trim().split('\n').at(-1) ?? ''
  return line === '' ? '' : `: ${printable(line)}`
}

function quoted(word: string): string {
  return /^[\w./:=@%+,{}-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`
}

/** The same for programs. */
export function jsonOf(report: Report): object {
  const { log, command, trials, earliest, least, seconds } = report
  const trialOf = ({ state, verdict }: Trial): object => {
    const { end, output, seconds } = verdict
    return { ...stateOf(state), end, output, seconds, again: againOf(report, state) }
  }
  const failures = failuresOf(report)
  return {
    log,
    command,
    states: trials.length,
    failed: failures.length,
    failures: failures.map(trialOf),
    earliest: earliest ? trialOf(earliest) : null,
    least: least ? { ...stateOf(least), again: againOf(report, least) } : null,
    seconds,
  }
}

function stateOf({ id, marks, lost }: Trial['state']): object {
  return { id, marks, lost }
}
