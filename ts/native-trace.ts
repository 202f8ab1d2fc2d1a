import { constants } from 'node:os'
import type * as native from '#binding'
import { wrap } from './errors.js'
import { flagsOf, OPERATIONS } from './runtime/requests.js'
import type { TraceListener, TraceRecord } from './trace.js'
import { onRejection } from './user-values.js'
import {
  TRACE_FAULTS,
  TRACE_FIELDS,
  TRACE_FLAGS,
  TRACE_LATENCY,
  TRACE_LENGTH,
  TRACE_OFFSET,
  TRACE_OP,
  TRACE_QUEUE,
  TRACE_RESULT,
  TRACE_TAG,
  TRACE_TIME,
} from './wire.js'

/**
 * Passes every request to a listener until `signal` is aborted, the device is deleted, or the listener throws. Resolves
 * when all requests were passed on.
 */
export async function traceOf(
  device: native.Device,
  listener: TraceListener,
  signal: AbortSignal | undefined,
): Promise<void> {
  if (signal?.aborted) return
  await new Promise<void>((resolve, reject) => {
    let failed = false
    const fail = (error: unknown): void => {
      failed = true
      stop()
      reject(error)
    }
    const take = ({ records, dropped, last }: native.TraceBatch): void => {
      try {
        if (!failed && (records.length > 0 || dropped > 0)) {
          onRejection(listener(toRecords(records), dropped), fail)
        }
      } catch (error) {
        fail(error)
      }
      if (!last) return
      signal?.removeEventListener('abort', stop)
      resolve()
    }
    const trace = start(device, take)
    const stop = (): void => trace.stop()
    signal?.addEventListener('abort', stop, { once: true })
  })
}

function start(device: native.Device, take: (batch: native.TraceBatch) => void): native.Trace {
  try {
    return device.trace(take)
  } catch (error) {
    throw wrap(error)
  }
}

function toRecords(numbers: Float64Array): TraceRecord[] {
  const records: TraceRecord[] = []
  for (let at = 0; at < numbers.length; at += TRACE_FIELDS) {
    const field = (number: number): number => numbers[at + number] as number
    const result = field(TRACE_RESULT)
    records.push({
      time: field(TRACE_TIME),
      queue: field(TRACE_QUEUE),
      tag: field(TRACE_TAG),
      op: OPERATIONS[field(TRACE_OP)] ?? 'other',
      offset: field(TRACE_OFFSET),
      length: field(TRACE_LENGTH),
      ...flagsOf(field(TRACE_FLAGS)),
      done: Math.max(result, 0),
      error: result < 0 ? (NAMES.get(-result) ?? `E${-result}`) : null,
      faults: bitsOf(field(TRACE_FAULTS)),
      latency: Math.round(field(TRACE_LATENCY) * 1000) / 1000,
    })
  }
  return records
}

/** The places of the bits of a number that are set. */
function bitsOf(number: number): number[] {
  const bits: number[] = []
  for (let [left, at] = [number >>> 0, 0]; left !== 0; left >>>= 1, at++) if (left & 1) bits.push(at)
  return bits
}

const NAMES: ReadonlyMap<number, string> = new Map(
  Object.entries(constants.errno)
    .filter(([name]) => name !== 'EWOULDBLOCK' && name !== 'ENOTSUP') // The usual names are EAGAIN and EOPNOTSUPP.
    .map(([name, number]) => [number, name]),
)
