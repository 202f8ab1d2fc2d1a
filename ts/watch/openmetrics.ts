import { Counter, Gauge, type Histogram, type OpenMetricsContentType, Registry } from 'prom-client'
import type { LatencyStats } from '../info.js'
import { OPERATIONS } from './interval.js'
import type { Reading } from './readings.js'

/** The content type of the format. */
export const CONTENT_TYPE: string = Registry.OPENMETRICS_CONTENT_TYPE

type Labels = { readonly [name: string]: string }

/** Devices' counters as OpenMetrics text. */
export async function openMetrics(readings: readonly Reading[]): Promise<string> {
  const registry = new Registry<OpenMetricsContentType>()
  registry.setContentType(Registry.OPENMETRICS_CONTENT_TYPE)
  const registers = [registry]
  const counter = (name: string, help: string, ...labelNames: string[]): Counter =>
    new Counter({ name, help, labelNames, registers })
  const gauge = (name: string, help: string, ...labelNames: string[]): Gauge =>
    new Gauge({ name, help, labelNames, registers })

  const BY_OP = ['device', 'queue', 'op']
  const requests = counter('ublk_requests_total', 'Requests answered.', ...BY_OP)
  const bytes = counter('ublk_bytes_total', 'Bytes of requests answered with success.', ...BY_OP)
  const errors = counter('ublk_errors_total', 'Requests answered with an error.', ...BY_OP)
  const durations = new Durations(
    'ublk_request_duration_seconds',
    'How long requests were in service, to a 32nd; those that failed too.',
  )
  durations.register(registry)
  const inFlight = gauge(
    'ublk_in_flight',
    'Requests taken from the kernel and not answered yet.',
    'device',
    'queue',
  )
  const turns = counter('ublk_turns_total', "Turns of a queue's loop.", 'device', 'queue')
  const up = gauge('ublk_up', 'Whether the server of the device answered.', 'device')
  const size = gauge('ublk_size_bytes', 'Size of the disk.', 'device')
  const about = ['device', 'path', 'state', 'queues', 'depth', 'block_size', 'read_only', 'pid']
  const info = gauge('ublk_device_info', 'What the device is: the value is 1.', ...about)

  const lazyPresent = gauge(
    'ublk_lazy_present_bytes',
    'Bytes of a lazy disk that are in its cache.',
    'device',
  )
  const lazyDirty = gauge(
    'ublk_lazy_dirty_bytes',
    'Bytes of them that clients wrote, of a bounded cache.',
    'device',
  )
  const lazyMax = gauge('ublk_lazy_max_bytes', 'The most bytes that a bounded cache holds.', 'device')
  const lazyFetches = counter('ublk_lazy_fetches_total', 'How often a source was asked.', 'device')
  const lazyFetched = counter('ublk_lazy_fetched_bytes_total', 'Bytes that it gave.', 'device')
  const lazyFailures = counter('ublk_lazy_failures_total', 'How often it failed.', 'device')
  const lazyEvicted = counter('ublk_lazy_evicted_bytes_total', 'Bytes that were evicted.', 'device')
  const nbd = (name: string, help: string): Gauge => gauge(name, help, 'device')
  const nbdServers = nbd('ublk_nbd_servers', 'NBD servers that have the disk or a part of it.')
  const nbdConnected = nbd('ublk_nbd_connected', 'With how many of them there is a connection.')
  const nbdLost = counter('ublk_nbd_lost_total', 'How often a connection was lost.', 'device')
  const nbdReconnects = counter('ublk_nbd_reconnects_total', 'How often it was made again.', 'device')
  const nbdLosses = counter(
    'ublk_nbd_losses_total',
    'How often writes may have been lost that a server had answered.',
    'device',
  )
  const nbdUnflushed = nbd('ublk_nbd_unflushed_writes', 'Writes that were answered since the last flush.')
  const nbdJournal = nbd('ublk_nbd_journal_bytes', 'Bytes that the journal keeps.')
  const nbdWrites = nbd('ublk_nbd_journal_writes', 'Writes that it keeps.')
  const nbdMax = nbd('ublk_nbd_journal_max_bytes', 'The most bytes that it can keep.')
  const volumeServing = gauge(
    'ublk_volume_serving',
    'Whether the volume works: 0 once somebody else has opened it.',
    'device',
  )
  const volumeBehind = gauge('ublk_volume_behind_bytes', 'Bytes that are not in the store yet.', 'device')
  const volumeBehindSeconds = gauge(
    'ublk_volume_behind_seconds',
    'For how long the oldest of them have waited.',
    'device',
  )
  const volumeWritten = counter(
    'ublk_volume_written_bytes_total',
    'Bytes that clients have written.',
    'device',
  )
  const volumeSent = counter('ublk_volume_sent_bytes_total', 'Bytes that were sent to the store.', 'device')
  const volumeReceived = counter('ublk_volume_received_bytes_total', 'Bytes that came from it.', 'device')
  const volumeStored = gauge('ublk_volume_stored_bytes', 'Bytes of the segments in the store.', 'device')
  const volumeLive = gauge('ublk_volume_live_bytes', "Those of them that are the disk's.", 'device')
  const volumeCached = gauge('ublk_volume_cached_bytes', 'Bytes in the cache of what was read.', 'device')
  const volumeRequests = counter(
    'ublk_volume_requests_total',
    'Requests to the store: put, get, list or delete.',
    'device',
    'request',
  )
  const volumeFailures = counter(
    'ublk_volume_failures_total',
    'Those that failed, and were made again.',
    'device',
  )
  const layerBytes = gauge(
    'ublk_layer_bytes',
    'Bytes that the file of a layer of an overlay takes up: a snapshot, or the upper, which is written.',
    'device',
    'layer',
    'written',
  )
  const faults = counter(
    'ublk_faults_applied_total',
    'Requests to which a rule for faults was applied, by its place in the list of rules.',
    'device',
    'rule',
  )
  const hanging = gauge('ublk_faults_hanging', 'Requests that hang because of a rule.', 'device')

  for (const { device, queues, lazy, connection, volume, layers, faults: report, trouble } of readings) {
    const name = { device: device.path.replace('/dev/', '') }
    up.set(name, trouble ? 0 : 1)
    size.set(name, device.size)
    info.set({ ...name, ...labelsOf(device) }, 1)
    if (lazy) {
      lazyPresent.set(name, lazy.present)
      if (lazy.dirty !== null) lazyDirty.set(name, lazy.dirty)
      if (lazy.max !== null) lazyMax.set(name, lazy.max)
      lazyFetches.inc(name, lazy.fetches)
      lazyFetched.inc(name, lazy.fetched)
      lazyFailures.inc(name, lazy.failures)
      lazyEvicted.inc(name, lazy.evicted)
    }
    if (connection) {
      nbdServers.set(name, connection.servers)
      nbdConnected.set(name, connection.connected)
      nbdLost.inc(name, connection.lost)
      nbdReconnects.inc(name, connection.reconnects)
      nbdLosses.inc(name, connection.losses)
      nbdUnflushed.set(name, connection.unflushed)
      nbdJournal.set(name, connection.journalBytes)
      nbdWrites.set(name, connection.journalWrites)
      nbdMax.set(name, connection.journalMax)
    }
    if (volume) {
      volumeServing.set(name, volume.serving ? 1 : 0)
      volumeBehind.set(name, volume.behind)
      volumeBehindSeconds.set(name, volume.behindSeconds)
      volumeWritten.inc(name, volume.written)
      volumeSent.inc(name, volume.sent)
      volumeReceived.inc(name, volume.received)
      volumeStored.set(name, volume.stored)
      volumeLive.set(name, volume.live)
      volumeCached.set(name, volume.cached)
      volumeRequests.inc({ ...name, request: 'put' }, volume.puts)
      volumeRequests.inc({ ...name, request: 'get' }, volume.gets)
      volumeRequests.inc({ ...name, request: 'list' }, volume.lists)
      volumeRequests.inc({ ...name, request: 'delete' }, volume.deletes)
      volumeFailures.inc(name, volume.failures)
    }
    for (const { path, bytes, written } of layers) {
      if (path !== null) layerBytes.set({ ...name, layer: path, written: `${written}` }, bytes)
    }
    if (report) {
      hanging.set(name, report.hanging)
      for (const [rule, { applied }] of report.rules.entries())
        faults.inc({ ...name, rule: `${rule}` }, applied)
    }
    for (const stats of queues) {
      const queue = { ...name, queue: `${stats.queue}` }
      inFlight.set(queue, stats.inFlight)
      turns.inc(queue, stats.turns)
      for (const op of OPERATIONS) {
        const labels = { ...queue, op: op === 'writeZeroes' ? 'write_zeroes' : op }
        requests.inc(labels, stats[op].ops)
        bytes.inc(labels, stats[op].bytes)
        errors.inc(labels, stats[op].errors)
        if (stats[op].ops > 0) durations.set(labels, stats[op].latency)
      }
    }
  }
  return await registry.metrics()
}

function labelsOf({ path, state, queues, depth, blockSize, readOnly, pid }: Reading['device']): Labels {
  return {
    path,
    state,
    queues: `${queues}`,
    depth: `${depth}`,
    block_size: `${blockSize}`,
    read_only: `${readOnly}`,
    pid: `${pid}`,
  }
}

/** Upper bounds of buckets in seconds: 1, 2 and 5 of each power of ten from 100 nanoseconds to ten seconds. */
const BOUNDS = [-7, -6, -5, -4, -3, -2, -1, 0]
  .flatMap(power => ['1', '2', '5'].map(digit => Number(`${digit}e${power}`)))
  .concat(10)

/** One line of a histogram. */
interface Sample {
  readonly metricName: string
  readonly labels: Labels
  readonly value: number
}

/** A family of histograms that were counted elsewhere. The library's own counts by itself. */
class Durations {
  readonly #samples: Sample[] = []

  constructor(
    readonly name: string,
    readonly help: string,
  ) {}

  set(labels: Labels, { buckets, count, mean }: LatencyStats): void {
    const add = (suffix: string, value: number, more: Labels = {}): void => {
      this.#samples.push({ metricName: `${this.name}_${suffix}`, labels: { ...labels, ...more }, value })
    }
    let [below, at] = [0, 0]
    for (const bound of BOUNDS) {
      for (let next = buckets[at]; next && next[0] <= bound * 1e6; next = buckets[++at]) below += next[1]
      add('bucket', below, { le: `${bound}` })
    }
    add('bucket', count, { le: '+Inf' })
    add('sum', (mean * count) / 1e6)
    add('count', count)
  }

  register(registry: Registry<OpenMetricsContentType>): void {
    const { name, help } = this
    const metric = { name, help, get: async () => ({ name, help, type: 'histogram', values: this.#samples }) }
    // All that a registry asks of a metric.
    registry.registerMetric(metric as unknown as Histogram)
  }
}
