import { formatSize } from '../../size.js'
import { type Column, formatTable } from '../table.js'
import { columnsFor, HISTORY, type Order, orders, sorted, type TopRow } from './rows.js'

/** What is on the screen, but for its size. */
export interface View {
  readonly rows: readonly TopRow[]
  /** How many more devices there are, which cannot be asked. */
  readonly silent: number
  readonly order: Order
  readonly reversed: boolean
  /** Seconds from one to the next. */
  readonly interval: number
  readonly time: Date
  /** Whether the terminal shows more than ASCII. */
  readonly unicode: boolean
}

const REVERSE = '\x1b[7m'
const PLAIN = '\x1b[27m'
const KEYS = `sort by ${orders.map(({ key, column }) => `${key} ${column.summary}`).join('  ')}   q quit`

/** The lines of a screen, at most `height` lines of at most `width` columns. */
export function screen(view: View, width: number, height: number): string[] {
  const history: Column<TopRow> = {
    name: 'HISTORY',
    summary: 'IOPS so far',
    value: row => spark(row.history, Math.min(HISTORY, Math.max(width - 70, 8)), view.unicode),
  }
  const rows = sorted(view.rows, view.order, view.reversed)
  const columns = [...columnsFor(rows), history]
  const [heading = 'no devices', ...lines] = formatTable(columns, rows)
    .split('\n')
    .filter(line => line !== '')
  const room = Math.max(height - 4, 0)
  const shown =
    lines.length > room ? [...lines.slice(0, room - 1), `and ${lines.length - room + 1} more`] : lines
  const body = [summary(view), '', heading, ...shown].map(line => line.slice(0, width))
  body[2] = body[2]?.replace(view.order.column.name, name => `${REVERSE}${name}${PLAIN}`) ?? ''
  const gap = Array.from({ length: Math.max(height - body.length - 1, 0) }, () => '')
  return [...body, ...gap, KEYS.slice(0, width)].slice(0, height)
}

function summary({ rows, silent, interval, time }: View): string {
  const sum = (of: (row: TopRow) => number): number =>
    Math.round(rows.reduce((total, row) => total + of(row), 0))
  return [
    `ublk-ts top ${time.toTimeString().slice(0, 8)}, every ${interval} s`,
    `${rows.length} device${rows.length === 1 ? '' : 's'}${silent > 0 ? ` and ${silent} that cannot be asked` : ''}`,
    `${sum(row => row.iops)} IOPS`,
    `${formatSize(sum(row => row.read))}/s read`,
    `${formatSize(sum(row => row.write))}/s written`,
  ].join(', ')
}

const BARS = '▁▂▃▄▅▆▇█'
const ASCII_BARS = '_.-~=+*#'

/** The last `width` numbers as bars, of which the highest is full. */
export function spark(numbers: readonly number[], width: number, unicode: boolean): string {
  const bars = unicode ? BARS : ASCII_BARS
  const last = numbers.slice(-width)
  const highest = Math.max(...last, 0)
  const bar = (value: number): string =>
    bars[highest > 0 ? Math.min(Math.floor((value / highest) * bars.length), bars.length - 1) : 0] ?? ''
  return last.map(bar).join('')
}
