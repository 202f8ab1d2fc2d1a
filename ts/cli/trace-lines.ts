import type { TraceRecord } from '../trace.js'
import { complain, toStderr } from './output.js'
import { formatTime } from './time.js'

/** A request in one line: `15:57:46.123456 q0 t17 write 1048576+4096 fua meta 264us EIO rule 0`. */
export function traceLine(record: TraceRecord): string {
  const { time, queue, tag, op, offset, length, error, faults, latency } = record
  const words = [clock(time), `q${queue}`, `t${tag}`, op, `${offset}+${length}`]
  for (const flag of FLAGS) if (record[flag]) words.push(flag.toLowerCase())
  words.push(formatTime(latency))
  if (error !== null) words.push(error)
  if (faults.length > 0) words.push(`rule ${faults.join(',')}`)
  return words.join(' ')
}

const FLAGS = ['fua', 'meta', 'failFast', 'swap'] as const

/** What is said of requests that are missing. */
export function lostLine(count: number): string {
  return `${count} request${count === 1 ? ' was' : 's were'} lost: there were too many to tell in time`
}

/** Prints requests on stderr. */
export function printRequests(records: readonly TraceRecord[], dropped: number): void {
  if (dropped > 0) complain(lostLine(dropped))
  toStderr(records.map(record => `${traceLine(record)}\n`).join(''))
}

/** The time of the day to a microsecond. */
function clock(time: number): string {
  const date = new Date(time)
  const two = (number: number): string => `${number}`.padStart(2, '0')
  const micros = Math.floor(date.getMilliseconds() * 1000 + (time - Math.floor(time)) * 1000)
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${`${micros}`.padStart(6, '0')}`
}
