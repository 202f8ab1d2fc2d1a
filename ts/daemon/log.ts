import { fstatSync, statSync } from 'node:fs'
import { configureSync, getJsonLinesFormatter, getLogger, type LogRecord, type Sink } from '@logtape/logtape'
import { wrap } from '../errors.js'
import { withoutControls } from '../json.js'
import { printable } from '../printable.js'
import type { JobLog, Level, LogForm } from './job.js'
import { LogFile } from './log-file.js'

/** Logs a line of text with named fields. */
export type Tell = (text: string, fields?: { readonly [name: string]: unknown }) => void

/** A log. */
export type Log = { readonly [level in Level]: Tell }

/** The log of this process. */
export interface OwnLog extends Log {
  /** Goes on in the file at a path, if this log is in a file: the present one may have been moved away. */
  reopen(path: string): void
}

const NAME = 'ublk-ts'

const STDERR = 2

/** Opens this process's log, which goes to stderr. `path`: the log file, if stderr is one. */
export function openLog({ form, level, path }: Pick<JobLog, 'form' | 'level' | 'path'>): OwnLog {
  const format = formatter(form)
  const file = path !== null && isOpenOn(STDERR, path) ? new LogFile(STDERR) : undefined
  const write = file ? (line: string) => file.write(line) : writeToStderr
  const sink: Sink = record => write(format(record))
  configureSync({
    sinks: { stderr: sink },
    loggers: [
      { category: NAME, sinks: ['stderr'], lowestLevel: level },
      { category: ['logtape', 'meta'], sinks: ['stderr'], lowestLevel: 'error' },
    ],
    reset: true,
  })
  const logger = getLogger(NAME)
  const teller = (level: Level): Tell => {
    // A brace in a text would be interpreted as a placeholder for a field.
    return (text, fields = {}) => logger[level](text.replace(/[{}]/g, '$&$&'), { ...fields })
  }
  const log: Log = {
    debug: teller('debug'),
    info: teller('info'),
    warning: teller('warning'),
    error: teller('error'),
  }
  const reopen = (path: string): void => {
    try {
      file?.reopen(path)
      if (file) log.info('the log was opened again')
    } catch (error) {
      log.warning(`the log cannot be opened again: ${wrap(error).message}`)
    }
  }
  return { ...log, reopen }
}

/** Whether stderr is that file: a service that takes over a disk logs to the journal, wherever the previous server logged. */
function isOpenOn(file: number, path: string): boolean {
  const [one, other] = [fstatSync(file), statSync(path, { throwIfNoEntry: false })]
  return one.isFile() && one.dev === other?.dev && one.ino === other.ino
}

function writeToStderr(line: string): void {
  // That nobody reads it any more ends no server.
  if (process.stderr.listenerCount('error') === 0) process.stderr.on('error', () => {})
  process.stderr.write(line)
}

const PRIORITIES: Partial<Record<string, number>> = { debug: 7, info: 6, warning: 4, error: 3 }

/** Escaped, so that no text from outside begins a line or controls a terminal. */
function formatter(form: LogForm): (record: LogRecord) => string {
  if (form === 'json') {
    const format = getJsonLinesFormatter({ properties: 'flatten' })
    return record => withoutControls(format(record))
  }
  const line = ({ message }: LogRecord): string => `${printable(message.join(''))}\n`
  if (form === 'plain') return record => `${NAME}: ${line(record)}`
  return record => `<${PRIORITIES[record.level] ?? 3}>${line(record)}`
}
