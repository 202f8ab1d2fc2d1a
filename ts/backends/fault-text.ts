/** Rules of the command line: `op=write,nth=3,errno=EIO`. */
import { invalid } from '../errors.js'
import { checkPlan } from './check-faults.js'
import type { FaultRule } from './fault-rules.js'

const NUMBERS = 'after nth every probability times iops'.split(' ')
const FLAGS = 'hang lose corrupt meta sequential inTurn'.split(' ')

/**
 * Reads a rule: fields as {@link FaultRule} has them, or JSON. A field that is true needs no value; several operations are
 * `read+write`; a range is `OFFSET+LENGTH`; a delay is `5ms`, `1ms..20ms` or, as mean and deviation, `5ms~1ms`.
 *
 * @throws UblkError of kind `invalid` if it makes no sense.
 */
export function parseFaultRule(text: string): FaultRule {
  const rule = (text.trimStart().startsWith('{') ? fromJson(text) : fromWords(text)) as FaultRule
  try {
    checkPlan([rule], 'a rule')
  } catch (error) {
    const { message, hint } = error as { message: string; hint?: string }
    throw invalid(message.replace(/^rule 0: /, ''), hint)
  }
  return rule
}

/** A rule as {@link parseFaultRule} reads it. */
export function formatFaultRule(rule: FaultRule): string {
  const given = Object.entries(rule).filter(([, value]) => value !== undefined)
  return given.map(([name, value]) => (value === true ? name : `${name}=${toWord(name, value)}`)).join(',')
}

function toWord(name: string, value: unknown): string {
  if (Array.isArray(value)) return value.join('+')
  if (typeof value !== 'object' || value === null) return String(value)
  const { offset, length, from, to, mean, deviation } = value as Record<string, unknown>
  if (name === 'range') return `${offset}+${length}`
  return from === undefined ? `${time(mean)}~${time(deviation)}` : `${time(from)}..${time(to)}`
}

function time(value: unknown): string {
  return typeof value === 'number' ? `${value}ms` : String(value)
}

function fromJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    throw invalid('it is not JSON', 'write it as op=write,nth=3,errno=EIO')
  }
}

function fromWords(text: string): object {
  const fields = text.split(',').map((word): [string, unknown] => {
    const at = word.indexOf('=')
    if (at < 0) return [word, true]
    const [name, value] = [word.slice(0, at), word.slice(at + 1)]
    return [name, fromWord(name, value)]
  })
  return Object.fromEntries(fields)
}

function fromWord(name: string, value: string): unknown {
  if (name === 'op') return value.includes('+') ? value.split('+') : value
  if (FLAGS.includes(name)) return value === 'true' ? true : value === 'false' ? false : value
  if (NUMBERS.includes(name))
    return value.trim() !== '' && Number.isFinite(Number(value)) ? Number(value) : value
  if (name === 'burst' && /^\d+$/.test(value)) return Number(value)
  if (name === 'range') {
    const [offset, length] = value.split('+')
    return { offset, length }
  }
  if (name !== 'delay') return value
  const [from, to] = value.split('..')
  if (to !== undefined) return { from, to }
  const [mean, deviation] = value.split('~')
  return deviation === undefined ? value : { mean, deviation }
}
