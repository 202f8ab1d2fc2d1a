import type { OpCounters, QueueStats } from '../info.js'
import { since, sumOf } from '../latency.js'
import type { Operation } from '../operation.js'
import type { Reading } from './readings.js'

/** The operations that are counted. */
export const OPERATIONS = ['read', 'write', 'flush', 'discard', 'writeZeroes'] as const

/** Counters by operation. */
export type Counters = { readonly [op in Operation]: OpCounters }

/** What a device did in some time. */
export interface Interval {
  readonly reading: Reading
  /** How long that was. */
  readonly seconds: number
  /** Of each queue: what was counted meanwhile; requests in flight at the end of it. */
  readonly queues: readonly QueueStats[]
}

/** What was counted between two readings of a device; nothing, if they are not of the same counters. */
export function intervalOf(before: Reading | undefined, now: Reading): Interval {
  const seconds = before ? (now.at - before.at) / 1000 : 0
  const same = before !== undefined && seconds > 0 && now.queues.length === before.queues.length
  const queues = same
    ? now.queues.map((queue, at) => queueSince(queue, before.queues[at] ?? queue))
    : now.queues.map(queue => queueSince(queue, queue))
  return { reading: now, seconds, queues }
}

function queueSince(now: QueueStats, before: QueueStats): QueueStats {
  // Counters only go back where another process serves the device now.
  const restarted = now.turns < before.turns || OPERATIONS.some(op => now[op].ops < before[op].ops)
  const from = restarted ? now : before
  return { ...now, ...byOperation(op => opSince(now[op], from[op])), turns: now.turns - from.turns }
}

function opSince(now: OpCounters, before: OpCounters): OpCounters {
  return {
    ops: now.ops - before.ops,
    bytes: now.bytes - before.bytes,
    errors: now.errors - before.errors,
    latency: since(now.latency, before.latency),
  }
}

/** All queues as one. */
export function totalOf(queues: readonly QueueStats[]): Counters & Pick<QueueStats, 'inFlight' | 'turns'> {
  const sum = (of: (queue: QueueStats) => number): number =>
    queues.reduce((total, queue) => total + of(queue), 0)
  return {
    ...byOperation(op => sumOfOps(queues.map(queue => queue[op]))),
    inFlight: sum(queue => queue.inFlight),
    turns: sum(queue => queue.turns),
  }
}

/** Several operations, or the same of several queues, as one. */
export function sumOfOps(parts: readonly OpCounters[]): OpCounters {
  const sum = (of: (part: OpCounters) => number): number => parts.reduce((total, part) => total + of(part), 0)
  return {
    ops: sum(part => part.ops),
    bytes: sum(part => part.bytes),
    errors: sum(part => part.errors),
    latency: sumOf(parts.map(part => part.latency)),
  }
}

function byOperation(of: (op: Operation) => OpCounters): Counters {
  const [read, write] = [of('read'), of('write')]
  return { read, write, flush: of('flush'), discard: of('discard'), writeZeroes: of('writeZeroes') }
}
