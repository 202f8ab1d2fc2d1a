import type { Command } from 'commander'
import { invalid } from '../errors.js'
import type { Json } from '../json.js'
import { printable } from '../printable.js'
import { formatSize } from '../size.js'
import { formatTime } from './time.js'

/** What a cell may hold. Tables show true and false as 1 and 0, lists with commas, null as nothing. */
export type Cell = string | number | boolean | null | readonly string[]

/** One column that a listing offers. */
export interface Column<Row> {
  /** In capitals; the key in JSON is the same in small letters. */
  readonly name: string
  /** In a few words, for the help. */
  readonly summary: string
  /** Whether it holds a number of bytes. */
  readonly bytes?: boolean
  /** Whether it holds a time in microseconds. */
  readonly micros?: boolean
  readonly value: (row: Row) => Cell
  /** Whether `show` prints a list one item per line. */
  readonly lines?: boolean
  /** What it is in JSON, if not the value. */
  readonly json?: (row: Row) => Json
}

/** The options of every listing. */
export interface ListingOptions {
  output?: string
  noheadings?: boolean
  bytes?: boolean
  json?: boolean
}

/** Adds the options of a listing to a command, and its columns and an example to the help. */
export function addListingOptions<Row>(
  command: Command,
  columns: readonly Column<Row>[],
  defaults: readonly string[],
  example: string,
): Command {
  const width = Math.max(...columns.map(column => column.name.length))
  const names = columns.map(column => `  ${column.name.padEnd(width)}  ${column.summary}`)
  return command
    .option(
      '-o, --output <columns>',
      'the columns to show, separated by commas; +COLUMN adds to the default ones',
    )
    .option('-n, --noheadings', 'leave out the headings')
    .option(
      '-b, --bytes',
      columns.some(column => column.micros)
        ? 'print sizes in bytes and times in microseconds, as JSON always does'
        : 'print sizes in bytes, as JSON always does',
    )
    .option('-J, --json', 'print one JSON object')
    .addHelpText(
      'after',
      `\nColumns (default: ${defaults.join(', ')}):\n${names.join('\n')}\n\nExample:\n  ${example}`,
    )
}

/** The columns asked for; in JSON all of them unless some are named. */
export function selectColumns<Row>(
  columns: readonly Column<Row>[],
  defaults: readonly string[],
  options: ListingOptions,
): Column<Row>[] {
  const output = options.output
  if (output === undefined) return options.json ? [...columns] : pick(columns, defaults)
  const names = output.replace(/^\+/, '').split(',')
  return pick(columns, output.startsWith('+') ? [...defaults, ...names] : names)
}

function pick<Row>(columns: readonly Column<Row>[], names: readonly string[]): Column<Row>[] {
  return names.map(name => {
    const column = columns.find(column => column.name === name.trim().toUpperCase())
    if (column) return column
    throw invalid(
      `there is no column '${name}'`,
      `columns are ${columns.map(column => column.name).join(', ')}`,
    )
  })
}

/** Rows under headings, two spaces apart, numbers to the right; empty if there are no rows. */
export function formatTable<Row>(
  columns: readonly Column<Row>[],
  rows: readonly Row[],
  options: ListingOptions = {},
): string {
  if (rows.length === 0) return ''
  const body = rows.map(row => columns.map(column => formatCell(column, row, options)))
  const lines = options.noheadings ? body : [columns.map(column => column.name), ...body]
  const widths = columns.map((_, at) => Math.max(...lines.map(line => line[at]?.length ?? 0)))
  const right = columns.map(column =>
    rows.every(row => column.bytes || column.micros || typeof column.value(row) === 'number'),
  )
  const pad = (cell: string, at: number): string =>
    right[at] ? cell.padStart(widths[at] ?? 0) : cell.padEnd(widths[at] ?? 0)
  return lines.map(line => line.map(pad).join('  ').trimEnd()).join('\n')
}

/** One row as lines of name and value. */
export function formatFields<Row>(
  columns: readonly Column<Row>[],
  row: Row,
  options: ListingOptions = {},
): string {
  const width = Math.max(...columns.map(column => column.name.length))
  return columns
    .map(column => `${column.name.padEnd(width)}  ${formatField(column, row, options, width)}`.trimEnd())
    .join('\n')
}

function formatField<Row>(column: Column<Row>, row: Row, options: ListingOptions, indent: number): string {
  const value = column.value(row)
  if (!column.lines || typeof value !== 'object' || value === null) return formatCell(column, row, options)
  return value.map(printable).join(`\n${' '.repeat(indent)}  `)
}

/** Rows as objects under one key, as `lsblk --json` has them. To be printed with `toJsonText`. */
export function toJson<Row>(key: string, columns: readonly Column<Row>[], rows: readonly Row[]): object {
  const object = (row: Row): object =>
    Object.fromEntries(columns.map(({ name, json, value }) => [name.toLowerCase(), (json ?? value)(row)]))
  return { [key]: rows.map(object) }
}

/** All digits of a whole number: beyond 2⁵³ JavaScript prints rounded ones, though the number itself is exact. */
function exact(value: number): string {
  return Number.isInteger(value) ? BigInt(value).toString() : String(value)
}

function formatCell<Row>(column: Column<Row>, row: Row, options: ListingOptions): string {
  const value = column.value(row)
  if (value === null) return ''
  if (typeof value === 'boolean') return value ? '1' : '0'
  if (typeof value === 'number' && !options.bytes) {
    if (column.bytes) return formatSize(value)
    if (column.micros) return formatTime(value)
  }
  if (typeof value === 'number') return exact(value)
  return printable(typeof value === 'object' ? value.join(',') : String(value))
}
