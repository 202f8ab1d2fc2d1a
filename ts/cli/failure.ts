import { CommanderError } from 'commander'
import { UblkError } from '../errors.js'
import { Failed } from '../service/job.js'
import { complain } from './output.js'

/** What went wrong, in one line, and the exit status for it: 2 if the command line is wrong, else 1. */
export interface Failure {
  line: string
  status: 1 | 2
}

/** Puts any error into one line. */
export function describe(error: unknown): Failure {
  if (error instanceof CommanderError) return { line: commanderLine(error), status: 2 }
  if (error instanceof Failed) return error
  if (error instanceof UblkError) {
    const hint = error.hint === undefined ? '' : `; ${error.hint}`
    return { line: oneLine(error.message + hint), status: error.kind === 'invalid' ? 2 : 1 }
  }
  if (error instanceof Error && /Warning$/.test(error.name))
    return { line: `${error.name}: ${firstLine(error.message)}`, status: 1 }
  const message = firstLine(error instanceof Error ? error.message || error.name : String(error))
  return { line: `unexpected failure: ${message}; set UBLK_TS_DEBUG=1 to see where`, status: 1 }
}

/** Tells the user about an error and returns the exit status for it. */
export function report(error: unknown): 1 | 2 {
  const { line, status } = describe(error)
  complain(line)
  if (process.env['UBLK_TS_DEBUG'] === '1' && error instanceof Error) process.stderr.write(`${error.stack}\n`)
  return status
}

/** Drops the prefix and puts the suggestion (`Did you mean …?`), which is on a second line, beside it. */
function commanderLine(error: CommanderError): string {
  if (error.code === 'commander.help') return 'no command given; see ublk-ts --help'
  return oneLine(error.message.replace(/^error: /, ''))
}

function oneLine(text: string): string {
  return text.trim().replace(/\s*\n\s*/g, ' ')
}

function firstLine(text: string): string {
  return text.trim().split('\n', 1)[0] ?? ''
}
