import type { OpCounters, QueueStats } from '../info.js'
import type { Operation } from '../operation.js'
import { formatSize } from '../size.js'
import { OPERATIONS, totalOf } from '../watch/interval.js'
import type { Reading } from '../watch/readings.js'
import { connectionText } from './connection-text.js'
import type { Column } from './table.js'
import { volumeText } from './volume-text.js'

/** One operation of a device, or of one of its queues. */
export interface StatsRow {
  readonly device: Reading['device']
  readonly layers: Reading['layers']
  readonly connection: Reading['connection']
  readonly volume: Reading['volume']
  /** null: all queues. */
  readonly queue: number | null
  readonly op: Operation
  readonly counters: OpCounters
  readonly inFlight: number
  readonly turns: number
  /** The length of the interval, if it is known. */
  readonly seconds: number | null
}

/** What the layers of an overlay take up. */
const layersColumn: Column<StatsRow> = {
  name: 'LAYERS',
  summary: 'of an overlay: its snapshots, the oldest first, and its upper, and the bytes that they take up',
  value: ({ layers }) =>
    layers.map(({ path, bytes }) => `${path ?? 'in memory'} (${formatSize(bytes)})`).join(', ') || null,
  json: ({ layers }) => layers.map(layer => ({ ...layer })),
}

/** How it stands with NBD servers. */
const connectionColumn: Column<StatsRow> = {
  name: 'CONNECTION',
  summary:
    'of a disk at NBD servers: whether it is connected, how often that was lost, and what the journal keeps',
  value: ({ connection }) => connection && connectionText(connection),
  json: ({ connection }) => (connection ? { ...connection } : null),
}

/** How it stands with a volume. */
const volumeColumn: Column<StatsRow> = {
  name: 'VOLUME',
  summary: 'of a disk in an object store: what is not stored yet, and what it takes up there and here',
  value: ({ volume }) => volume && volumeText(volume),
  json: ({ volume }) => (volume ? { ...volume } : null),
}

/** The columns of counts. */
export const totalColumns: readonly Column<StatsRow>[] = [
  ...names(),
  { name: 'OPS', summary: 'requests answered', value: row => row.counters.ops },
  {
    name: 'BYTES',
    summary: 'bytes that these requests covered',
    bytes: true,
    value: row => row.counters.bytes,
  },
  { name: 'ERRORS', summary: 'requests that failed', value: row => row.counters.errors },
  ...times(),
  { name: 'TURNS', summary: "iterations of the queue's loop, all operations", value: row => row.turns },
  layersColumn,
  connectionColumn,
  volumeColumn,
]

/** The columns of rates. */
export const rateColumns: readonly Column<StatsRow>[] = [
  ...names(),
  { name: 'OPS/S', summary: 'requests answered per second', value: row => rate(row, row.counters.ops) },
  {
    name: 'BYTES/S',
    summary: 'bytes that these requests covered per second',
    bytes: true,
    value: row => Math.round(rate(row, row.counters.bytes)),
  },
  {
    name: 'ERRORS/S',
    summary: 'requests that failed per second',
    value: row => rate(row, row.counters.errors),
  },
  ...times(),
  {
    name: 'TURNS/S',
    summary: "iterations of the queue's loop per second, all operations",
    value: row => rate(row, row.turns),
  },
]

/** The columns that are shown by default. */
export function usualOf(columns: readonly Column<StatsRow>[], byQueue: boolean): string[] {
  const unusual = [
    'PATH',
    'P90',
    'P999',
    'IN-FLIGHT',
    'TURNS',
    'TURNS/S',
    'LAYERS',
    'CONNECTION',
    'VOLUME',
    ...(byQueue ? [] : ['QUEUE']),
  ]
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
    time('MEAN', 'mean time from taking a request to answering it', 'mean'),
    time('P50', 'median of this time', 'p50'),
    time('P90', '90th percentile of this time', 'p90'),
    time('P99', '99th percentile of this time', 'p99'),
    time('P999', '99.9th percentile of this time', 'p999'),
    time('MAX', 'maximum of this time', 'max'),
    { name: 'IN-FLIGHT', summary: 'requests in flight now, all operations', value: row => row.inFlight },
  ]
}

function rate({ seconds }: StatsRow, count: number): number {
  const found = seconds ? count / seconds : 0
  return Number(found.toFixed(found < 100 ? 1 : 0))
}

function round(micros: number): number {
  return Math.round(micros * 1000) / 1000
}

/** The rows of devices. Operations other than read and write without any request are left out, unless `all`. */
export function rowsOf(
  devices: readonly { reading: Reading; queues: readonly QueueStats[]; seconds?: number }[],
  { byQueue, all }: { byQueue: boolean; all: boolean },
): StatsRow[] {
  return devices.flatMap(({ reading: { device, layers, connection, volume }, queues, seconds = null }) => {
    const parts = byQueue ? queues : [{ queue: null, ...totalOf(queues) }]
    return parts.flatMap(part =>
      OPERATIONS.filter(op => all || op === 'read' || op === 'write' || part[op].ops > 0).map(op => {
        const { queue, inFlight, turns } = part
        return { device, layers, connection, volume, queue, op, counters: part[op], inFlight, turns, seconds }
      }),
    )
  })
}
