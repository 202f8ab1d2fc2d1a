import type { OpCounters, QueueStats } from '../info.js'
import type { Operation } from '../operation.js'
import { OPERATIONS, totalOf } from '../watch/interval.js'
import type { Reading } from '../watch/readings.js'
import type { Column } from './table.js'

/** One operation of a device, or of one of its queues. */
export interface StatsRow {
  readonly device: Reading['device']
  /** null: of all queues. */
  readonly queue: number | null
  readonly op: Operation
  readonly counters: OpCounters
  readonly inFlight: number
  readonly turns: number
  /** How long that took, if it is known. */
  readonly seconds: number | null
}

/** The columns of counts. */
export const totalColumns: readonly Column<StatsRow>[] = [
  ...names(),
  { name: 'OPS', summary: 'requests answered', value: row => row.counters.ops },
  { name: 'BYTES', summary: 'bytes they covered', bytes: true, value: row => row.counters.bytes },
  { name: 'ERRORS', summary: 'requests that failed', value: row => row.counters.errors },
  ...times(),
  { name: 'TURNS', summary: "turns of the queue's loop, for all operations", value: row => row.turns },
]

/** The columns of rates. */
export const rateColumns: readonly Column<StatsRow>[] = [
  ...names(),
  { name: 'OPS/S', summary: 'requests answered in a second', value: row => rate(row, row.counters.ops) },
  {
    name: 'BYTES/S',
    summary: 'bytes they covered',
    bytes: true,
    value: row => Math.round(rate(row, row.counters.bytes)),
  },
  {
    name: 'ERRORS/S',
    summary: 'requests that failed in a second',
    value: row => rate(row, row.counters.errors),
  },
  ...times(),
  {
    name: 'TURNS/S',
    summary: "turns of the queue's loop, for all operations",
    value: row => rate(row, row.turns),
  },
]

/** What is shown unless told otherwise. */
export function usualOf(columns: readonly Column<StatsRow>[], byQueue: boolean): string[] {
  const unusual = ['PATH', 'P90', 'P999', 'IN-FLIGHT', 'TURNS', 'TURNS/S', ...(byQueue ? [] : ['QUEUE'])]
  return columns.map(column => column.name).filter(name => !unusual.includes(name))
}

function names(): Column<StatsRow>[] {
  return [
    { name: 'ID', summary: 'number of the device', value: row => row.device.id },
    { name: 'PATH', summary: 'path of the disk', value: row => row.device.path },
    { name: 'QUEUE', summary: 'number of the queue, with --by-queue', value: row => row.queue },
    { name: 'OP', summary: 'read, write, flush, discard or writeZeroes', value: row => row.op },
  ]
}

function times(): Column<StatsRow>[] {
  const time = (name: string, summary: string, of: keyof OpCounters['latency']): Column<StatsRow> => ({
    name,
    summary,
    micros: true,
    value: ({ counters: { ops, latency } }) => (ops > 0 ? round(Number(latency[of])) : null),
  })
  return [
    time('MEAN', 'time that they were in service, on average', 'mean'),
    time('P50', 'what half of them did not exceed', 'p50'),
    time('P90', 'what 90% of them did not exceed', 'p90'),
    time('P99', 'what 99% of them did not exceed', 'p99'),
    time('P999', 'what 99.9% of them did not exceed', 'p999'),
    time('MAX', 'the longest', 'max'),
    { name: 'IN-FLIGHT', summary: 'requests in service now, of all operations', value: row => row.inFlight },
  ]
}

function rate({ seconds }: StatsRow, count: number): number {
  const found = seconds ? count / seconds : 0
  return Number(found.toFixed(found < 100 ? 1 : 0))
}

function round(micros: number): number {
  return Math.round(micros * 1000) / 1000
}

/** The rows of devices. Of operations other than reads and writes, `all` or only what there was. */
export function rowsOf(
  devices: readonly { reading: Reading; queues: readonly QueueStats[]; seconds?: number }[],
  { byQueue, all }: { byQueue: boolean; all: boolean },
): StatsRow[] {
  return devices.flatMap(({ reading: { device }, queues, seconds = null }) => {
    const parts = byQueue ? queues : [{ queue: null, ...totalOf(queues) }]
    return parts.flatMap(part =>
      OPERATIONS.filter(op => all || op === 'read' || op === 'write' || part[op].ops > 0).map(op => {
        const { queue, inFlight, turns } = part
        return { device, queue, op, counters: part[op], inFlight, turns, seconds }
      }),
    )
  })
}
