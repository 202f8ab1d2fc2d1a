import type { LatencyStats, OpCounters, QueueStats } from 'ublk-ts'
import { latencyOf } from '../../dist/latency.js'
import type { Reading } from '../../dist/watch/readings.js'

/** Requests that took this many microseconds each, all of 4 KiB. */
export function opOf(...times: number[]): OpCounters {
  return { ops: times.length, bytes: times.length * 4096, errors: 0, latency: latencies(times) }
}

function latencies(times: readonly number[]): LatencyStats {
  const counts = new Map<number, number>()
  for (const time of times) counts.set(time, (counts.get(time) ?? 0) + 1)
  const sum = times.reduce((total, time) => total + time, 0)
  const buckets = [...counts].sort(([a], [b]) => a - b)
  return latencyOf(buckets, times.length > 0 ? sum / times.length : 0, Math.max(...times, 0))
}

/** A queue that did this, and nothing else. */
export function queueOf(queue: number, did: Partial<QueueStats> = {}): QueueStats {
  const none = opOf()
  return {
    ...{
      queue,
      read: none,
      write: none,
      flush: none,
      discard: none,
      writeZeroes: none,
      inFlight: 0,
      turns: 1,
    },
    ...did,
  }
}

/** A reading of a device with these queues. */
export function readingOf(id: number, at: number, queues: readonly QueueStats[], more = {}): Reading {
  return {
    device: {
      ...{ id, state: 'live', path: `/dev/ublkb${id}`, charPath: `/dev/ublkc${id}`, size: 2 ** 24 },
      ...{ blockSize: 512, physicalBlockSize: 4096, queues: queues.length, depth: 128, maxIo: 524288 },
      ...{ readOnly: false, writeCache: false, fua: false, rotational: false, discardGranularity: 4096 },
      ...{ chunk: 0, optimalIo: 0, maxSegments: 0, maxSegmentSize: 0 },
      ...{ maxDiscard: 0, maxWriteZeroes: 0, pid: 7, serverAlive: true, flags: [], ownerUid: 0, ownerGid: 0 },
      ...{ transport: 'per-io', copy: 'copy' },
    },
    lazy: null,
    connection: null,
    volume: null,
    layers: [],
    faults: null,
    at,
    queues,
    trouble: null,
    ...more,
  }
}

/** A reading that has a number for each metric. */
export function everything(): Reading {
  const op = opOf(3, 700)
  const queue = queueOf(0, { read: op, write: op, flush: op, discard: op, writeZeroes: op })
  const lazy = { size: 2 ** 24, chunk: 4096, present: 8192, dirty: 4096, max: 2 ** 20, fetches: 2 }
  return readingOf(0, 0, [queue], {
    lazy: { ...lazy, fetched: 8192, failures: 1, evicted: 4096, filling: 'off' },
    connection: {
      ...{ servers: 1, connected: 1, lost: 2, reconnects: 2, losses: 1, unflushed: 5 },
      ...{ journalBytes: 4096, journalWrites: 3, journalMax: 2 ** 20 },
    },
    volume: {
      ...{ serving: true, behind: 4096, behindSeconds: 0.5, written: 8192, sent: 12288, received: 4096 },
      ...{ puts: 3, gets: 1, lists: 2, deletes: 1, failures: 1, stored: 8192, live: 4096, cached: 65536 },
    },
    layers: [{ path: '/a.cow', bytes: 8192, written: true }],
    faults: {
      rules: [{ rule: { op: 'read', errno: 'EIO' }, ofProfile: false, considered: 9, applied: 4 }],
      seed: 0,
      hanging: 0,
    },
  })
}
