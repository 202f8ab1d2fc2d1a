import { type Interval, OPERATIONS, sumOfOps, totalOf } from '../../watch/interval.js'
import { connectedText } from '../connection-text.js'
import type { Column } from '../table.js'
import { behindText } from '../volume-text.js'

/** What a device does. Rates are a second's. */
export interface TopRow {
  readonly id: number
  /** Such as `ublkb0`. */
  readonly name: string
  readonly iops: number
  readonly read: number
  readonly write: number
  /** In microseconds; null without requests. */
  readonly mean: number | null
  readonly p99: number | null
  readonly inFlight: number
  /** How much of a lazy disk is there, such as `12%`; null of another disk. */
  readonly present: string | null
  /** Whether it is connected to its NBD servers; null of another disk. */
  readonly connected: string | null
  /** How much is not in its object store yet; null of another disk. */
  readonly behind: string | null
  /** Its IOPS so far, the last at the end. */
  readonly history: readonly number[]
}

/** How a row can be sorted by: a key, and the column of that name. */
export interface Order {
  readonly key: string
  readonly column: Column<TopRow>
}

/** The columns, with the key that sorts by each. */
export const orders: readonly Order[] = [
  { key: 'd', column: { name: 'DEVICE', summary: 'device', value: row => row.name } },
  { key: 'i', column: { name: 'IOPS', summary: 'IOPS', value: row => Math.round(row.iops) } },
  { key: 'r', column: { name: 'READ/S', summary: 'read', bytes: true, value: row => Math.round(row.read) } },
  {
    key: 'w',
    column: { name: 'WRITE/S', summary: 'written', bytes: true, value: row => Math.round(row.write) },
  },
  { key: 'm', column: { name: 'MEAN', summary: 'mean time', micros: true, value: row => row.mean } },
  { key: 'p', column: { name: 'P99', summary: '99% time', micros: true, value: row => row.p99 } },
  { key: 'f', column: { name: 'IN-FLIGHT', summary: 'in flight', value: row => row.inFlight } },
]

const PRESENT: Column<TopRow> = {
  name: 'PRESENT',
  summary: 'share of a lazy disk that is there',
  value: row => row.present,
}

const CONNECTED: Column<TopRow> = {
  name: 'CONNECTED',
  summary: 'of a disk at an NBD server: whether it is connected, and how often that was lost',
  value: row => row.connected,
}

const BEHIND: Column<TopRow> = {
  name: 'BEHIND',
  summary: 'of a disk in an object store: how much of it is not there yet',
  value: row => row.behind,
}

/** The columns that are shown: those of lazy disks, of disks at NBD servers and in object stores, only if there are some. */
export function columnsFor(rows: readonly TopRow[]): Column<TopRow>[] {
  const some = [PRESENT, CONNECTED, BEHIND].filter(({ value }) => rows.some(row => value(row) !== null))
  return [...orders.map(({ column }) => column), ...some]
}

/** How many IOPS are remembered. */
export const HISTORY = 60

/** What a device did in an interval, after what it did before. */
export function rowOf(
  { reading: { device, lazy, connection, volume }, seconds, queues }: Interval,
  before: TopRow | undefined,
): TopRow {
  const total = totalOf(queues)
  const all = sumOfOps(OPERATIONS.map(op => total[op]))
  const rate = (count: number): number => (seconds > 0 ? count / seconds : 0)
  const time = (micros: number): number | null => (all.ops > 0 ? micros : null)
  const iops = rate(all.ops)
  return {
    id: device.id,
    name: device.path.replace('/dev/', ''),
    iops,
    read: rate(total.read.bytes),
    write: rate(total.write.bytes),
    mean: time(all.latency.mean),
    p99: time(all.latency.p99),
    inFlight: total.inFlight,
    present: lazy ? `${Math.floor((100 * lazy.present) / lazy.size)}%` : null,
    connected:
      connection && connectedText(connection) + (connection.lost > 0 ? `, lost ${connection.lost}` : ''),
    behind: volume && behindText(volume),
    history: seconds > 0 ? [...(before?.history ?? []), iops].slice(-HISTORY) : [],
  }
}

/** Rows by a column: the largest first, devices by their numbers; or the other way round. */
export function sorted(rows: readonly TopRow[], order: Order, reversed: boolean): TopRow[] {
  const byDevice = order.key === 'd'
  const value = (row: TopRow): number => Number(order.column.value(row) ?? -1)
  const compare = (a: TopRow, b: TopRow): number => (byDevice ? 0 : value(b) - value(a)) || a.id - b.id
  return rows.toSorted((a, b) => (reversed ? compare(b, a) : compare(a, b)))
}
