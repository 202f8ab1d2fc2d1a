import { configureSync, getJsonLinesFormatter, getLogger, type LogRecord, type Sink } from '@logtape/logtape'
import type { Level, LogForm } from './job.js'

/** Takes what a server has to tell: a line of text, and what is known by name. */
export type Tell = (text: string, fields?: { readonly [name: string]: unknown }) => void

/** A log. */
export type Log = { readonly [level in Level]: Tell }

const NAME = 'ublk-ts'

/** Opens this process's log, which goes to stderr, wherever that does. */
export function openLog(form: LogForm, level: Level): Log {
  const format = formatter(form)
  const sink: Sink = record => void process.stderr.write(format(record))
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
    // A brace in a text would be taken for a place to put a field in.
    return (text, fields = {}) => logger[level](text.replace(/[{}]/g, '$&$&'), { ...fields })
  }
  return {
    debug: teller('debug'),
    info: teller('info'),
    warning: teller('warning'),
    error: teller('error'),
  }
}

const PRIORITIES: Partial<Record<string, number>> = { debug: 7, info: 6, warning: 4, error: 3 }

function formatter(form: LogForm): (record: LogRecord) => string {
  if (form === 'json') return getJsonLinesFormatter({ properties: 'flatten' })
  const line = ({ message }: LogRecord): string => `${message.join('')}\n`
  if (form === 'plain') return record => `${NAME}: ${line(record)}`
  return record => `<${PRIORITIES[record.level] ?? 3}>${line(record)}`
}
