import { inspect } from 'node:util'
import { CommanderError } from 'commander'
import { Failed } from '../daemon/job.js'
import { hintOf, UblkError, wrap } from '../errors.js'
import { inOneLine } from '../user-values.js'
import { complain, toStderr } from './output.js'
import { cliWords } from './remedies.js'

/** What went wrong, in one line, and the exit status for it: 2 if the command line is wrong, else 1. */
export interface Failure {
  line: string
  status: 1 | 2
}

/** Puts any error into one line. */
export function describe(error: unknown): Failure {
  try {
    return known(error) ?? { line: unexpected(error), status: 1 }
  } catch {
    return { line: unexpected(error), status: 1 }
  }
}

function known(error: unknown): Failure | undefined {
  if (error instanceof CommanderError) return { line: commanderLine(error), status: 2 }
  if (error instanceof Failed) return error
  // That of another copy of the library is as good: the native part is loaded by one of its own.
  if (!(error instanceof UblkError)) return isOfOtherCopy(error) ? known(wrap(error)) : undefined
  const words = hintOf(error, cliWords)
  const hint = words === undefined ? '' : `; ${words}`
  return { line: oneLine(error.message + hint), status: error.kind === 'invalid' ? 2 : 1 }
}

function isOfOtherCopy(error: unknown): boolean {
  return error instanceof Error && error.name === 'UblkError'
}

/** The thrown value may be anything, and any access to it may throw. */
function unexpected(error: unknown): string {
  let message: string | undefined
  try {
    if (error instanceof Error && typeof error.message === 'string') {
      if (error.name.endsWith('Warning')) return `${error.name}: ${firstLine(error.message)}`
      message = firstLine(error.message || error.name)
    }
  } catch {}
  message ??= typeof error === 'string' ? firstLine(error) : inOneLine(error)
  return `unexpected failure: ${message}; set UBLK_TS_DEBUG=1 to see where`
}

/** Prints an error and returns the exit status for it. */
export function report(error: unknown): 1 | 2 {
  const { line, status } = describe(error)
  complain(line)
  if (process.env['UBLK_TS_DEBUG'] === '1') toStderr(`${inspect(error)}\n`)
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
