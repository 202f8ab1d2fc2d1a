import type { Command } from 'commander'
import { intervalOf } from '../watch/interval.js'
import { type Reading, Readings } from '../watch/readings.js'
import { answeringDevices } from './answering-devices.js'
import { loadApi } from './load-api.js'
import { print } from './output.js'
import { period, times } from './parse-numbers.js'
import { formatTable } from './table.js'
import { ticks } from './ticks.js'
import { columnsFor, type Order, orders, rowOf, sorted, type TopRow } from './top/rows.js'
import { screen } from './top/screen.js'
import { Terminal } from './top/terminal.js'

interface Flags {
  interval: number
  count?: number
}

const HELP = `
Press the key of a column to sort by it, and again to reverse the order; q quits. If stdout is not a
terminal, a table is printed at each interval.

Example:
  ublk-ts top --interval 2`

/** Adds `ublk-ts top`. */
export function addTop(program: Command): void {
  program
    .command('top')
    .description('show the load of all devices, live')
    .option('-i, --interval <seconds>', 'how often to update', period, 1)
    .option('-c, --count <n>', 'end after this many updates (default: when interrupted)', times)
    .addHelpText('after', HELP)
    .action(top)
}

async function top(flags: Flags): Promise<void> {
  const { UblkDevice } = await loadApi()
  const { interrupts } = await import('../daemon/interrupts.js')
  const { first: interrupted } = interrupts({ hangup: 'end' })
  using readings = new Readings(UblkDevice)
  const terminal = process.stdout.isTTY
  const watch = new Watch(terminal ? () => readings.all() : answeringDevices(readings))
  await watch.look()
  if (terminal) await showScreen(watch, flags, interrupted)
  else await showTables(watch, flags, interrupted)
}

/** The rates of all devices, from one reading to the next. */
class Watch {
  rows: TopRow[] = []
  /** How many devices do not answer. */
  silent = 0
  readonly #read: () => Promise<Reading[]>
  #before: Reading[] = []

  constructor(read: () => Promise<Reading[]>) {
    this.#read = read
  }

  async look(): Promise<void> {
    const all = await this.#read()
    const now = all.filter(({ trouble }) => !trouble)
    this.silent = all.length - now.length
    this.rows = now.map(reading => {
      const { id } = reading.device
      const before = this.#before.find(({ device }) => device.id === id)
      return rowOf(
        intervalOf(before, reading),
        this.rows.find(row => row.id === id),
      )
    })
    this.#before = now
  }
}

const [BY_DEVICE] = orders as [Order]

async function showTables(watch: Watch, { interval, count }: Flags, interrupted: AbortSignal): Promise<void> {
  let shown = 0
  for await (const _ of ticks(interval, count ?? Number.POSITIVE_INFINITY, interrupted)) {
    await watch.look()
    const table = formatTable(columnsFor(watch.rows), sorted(watch.rows, BY_DEVICE, false))
    await print(shown++ > 0 ? `\n${table}` : table)
  }
}

async function showScreen(watch: Watch, { interval, count }: Flags, interrupted: AbortSignal): Promise<void> {
  let [order, reversed] = [orders[1] ?? BY_DEVICE, false]
  const quit = new AbortController()
  const draw = (): void => {
    const { rows, silent } = watch
    const view = { rows, silent, order, reversed, interval, time: new Date(), unicode: showsUnicode() }
    terminal.draw(screen(view, terminal.width, terminal.height))
  }
  const key = (key: string): void => {
    if (key === 'q' || key === CTRL_C) quit.abort()
    const chosen = orders.find(order => order.key === key)
    if (!chosen) return
    reversed = chosen === order && !reversed
    order = chosen
    draw()
  }
  using terminal = new Terminal({ key, resize: () => draw() })
  draw()
  const ended = AbortSignal.any([interrupted, quit.signal])
  for await (const _ of ticks(interval, count ?? Number.POSITIVE_INFINITY, ended)) {
    await watch.look()
    draw()
  }
}

const CTRL_C = '\x03'

function showsUnicode(): boolean {
  const { LC_ALL, LC_CTYPE, LANG } = process.env
  return /utf-?8/i.test(LC_ALL || LC_CTYPE || LANG || '')
}
