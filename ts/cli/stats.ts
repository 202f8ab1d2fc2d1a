import type { Command } from 'commander'
import { invalid } from '../errors.js'
import { toJsonText } from '../json.js'
import { idOf } from '../remote/names.js'
import { intervalOf } from '../watch/interval.js'
import { type Reading, Readings } from '../watch/readings.js'
import { answeringDevices } from './answering-devices.js'
import { report } from './failure.js'
import { loadApi } from './load-api.js'
import { print } from './output.js'
import { period, times } from './parse-numbers.js'
import { rateColumns, rowsOf, type StatsRow, totalColumns, usualOf } from './stats-rows.js'
import {
  addListingOptions,
  type Column,
  formatTable,
  type ListingOptions,
  selectColumns,
  toJson,
} from './table.js'
import { ticks } from './ticks.js'

interface Flags extends ListingOptions {
  byQueue?: boolean
  interval?: number
  count?: number
  openmetrics?: boolean
}

/** Adds `ublk-ts stats`. */
export function addStats(program: Command): void {
  const command = program
    .command('stats')
    .description("show devices' counters and how long requests took; with --interval: rates")
    .argument('[device...]', 'such as 0, /dev/ublkb0 or the name of a disk (default: all)')
    .option('-q, --by-queue', 'show each queue separately')
    .option('-i, --interval <seconds>', 'show rates at this interval, until interrupted', period)
    .option('-c, --count <n>', 'with --interval: end after this many reports', times)
    .option('--openmetrics', 'print OpenMetrics text, as ublk-ts metrics does')
  const rates = rateColumns
    .filter(({ name }) => name.endsWith('/S'))
    .map(column => ({ ...column, summary: `${column.summary}, with --interval` }))
  const columns = [...totalColumns, ...rates]
  addListingOptions(command, columns, usualOf(totalColumns, false), 'ublk-ts stats --interval 1 0')
  command.action(show)
}

async function show(devices: string[], flags: Flags): Promise<void> {
  const ids = devices.map(idOf)
  check(flags)
  const columns = flags.interval === undefined ? totalColumns : rateColumns
  const selected = selectColumns(columns, usualOf(columns, flags.byQueue ?? false), flags)
  const { UblkDevice } = await loadApi()
  using readings = new Readings(UblkDevice)
  const read = ids.length > 0 ? () => readNamed(readings, ids) : answeringDevices(readings)
  if (flags.openmetrics) {
    const { openMetrics } = await import('../watch/openmetrics.js')
    await print(await openMetrics(await read()))
  } else if (flags.interval === undefined) {
    const rows = (await read()).map(reading => ({ reading, queues: reading.queues }))
    await printRows(selected, rows, flags)
  } else await showRates(read, selected, flags.interval, flags)
}

function check({ interval, count, openmetrics, json }: Flags): void {
  if (count !== undefined && interval === undefined) throw invalid('--count is only for --interval')
  if (openmetrics && (interval !== undefined || json)) {
    throw invalid('--openmetrics goes with neither --interval nor --json')
  }
}

/** Reports each failure and continues with the next device. */
async function readNamed(readings: Readings, ids: readonly number[]): Promise<Reading[]> {
  const found: Reading[] = []
  for (const id of ids) {
    try {
      found.push(await readings.one(id))
    } catch (error) {
      process.exitCode = report(error)
    }
  }
  return found
}

async function showRates(
  read: () => Promise<Reading[]>,
  columns: readonly Column<StatsRow>[],
  interval: number,
  flags: Flags,
): Promise<void> {
  const { interrupts } = await import('../daemon/interrupts.js')
  const { first: interrupted } = interrupts({ hangup: 'end' })
  let before = await read()
  let shown = 0
  for await (const _ of ticks(interval, flags.count ?? Number.POSITIVE_INFINITY, interrupted)) {
    const now = await read()
    const rows = now.map(reading =>
      intervalOf(
        before.find(({ device }) => device.id === reading.device.id),
        reading,
      ),
    )
    if (shown++ > 0 && !flags.json && rows.length > 0) await print('')
    await printRows(columns, rows, flags)
    before = now
  }
}

async function printRows(
  columns: readonly Column<StatsRow>[],
  devices: Parameters<typeof rowsOf>[0],
  flags: Flags,
): Promise<void> {
  const rows = rowsOf(devices, { byQueue: flags.byQueue ?? false, all: flags.json ?? false })
  const indent = flags.interval === undefined ? 2 : 0 // Each report is one line.
  if (flags.json) await print(toJsonText(toJson('stats', columns, rows), indent))
  else if (rows.length > 0) await print(formatTable(columns, rows, flags))
}
