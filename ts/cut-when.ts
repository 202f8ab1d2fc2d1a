import type * as native from '#binding'
import { wrap } from './errors.js'
import type { Operation } from './operation.js'
import { flagsOf, OPERATIONS, type RequestFlags } from './runtime/requests.js'
import { inOneLine, nameOf, onRejection } from './user-values.js'
import { CHANGE_FIELDS, CHANGE_FLAGS, CHANGE_LENGTH, CHANGE_OFFSET, CHANGE_OP } from './wire.js'

/** A request that a {@link powercut} disk has answered. */
export interface RecordedRequest extends RequestFlags {
  /** What it was. */
  readonly op: Exclude<Operation, 'read'>
  /** Its offset in bytes; 0 of a flush. */
  readonly offset: number
  /** Its length in bytes; 0 of a flush. */
  readonly length: number
}

/** Whether the power fails, now that a request was answered; see {@link ServedDevice.cutAt}. */
export type CutPredicate = (request: RecordedRequest) => boolean

/** Which predicate a disk has, until another event takes its place. */
const current = new WeakMap<native.Device, CutPredicate>()

/** Another event takes the place of a predicate. */
export function forgetPredicate(device: native.Device): void {
  current.delete(device)
}

/** Shows all requests that are answered to a predicate, and switches the power off when it returns true. */
export function cutWhen(
  device: native.Device,
  predicate: CutPredicate,
  report: (message: string) => void,
): void {
  const show = (request: RecordedRequest): void => {
    let cuts: unknown
    try {
      cuts = predicate(request)
    } catch (error) {
      forgetPredicate(device)
      report(`the predicate of cutAt() failed: ${inOneLine(error)}`)
      return
    }
    if (cuts === false) return
    forgetPredicate(device)
    if (cuts === true) {
      device.switchOff()
    } else {
      onRejection(cuts, () => {}) // of an async function
      report(`the predicate of cutAt() must return true or false, not ${nameOf(cuts)}`)
    }
  }
  const look = (): void => {
    // It may put another one in its place.
    const isCurrent = (): boolean => current.get(device) === predicate
    while (isCurrent()) {
      const numbers = device.takeWatched()
      if (numbers.length === 0) break
      for (const request of requests(numbers)) if (isCurrent()) show(request)
    }
  }
  try {
    device.watch(look)
  } catch (error) {
    throw wrap(error)
  }
  current.set(device, predicate)
}

function* requests(numbers: readonly number[]): Generator<RecordedRequest, void, undefined> {
  for (let at = 0; at < numbers.length; at += CHANGE_FIELDS) {
    const field = (number: number): number => numbers[at + number] as number
    yield {
      op: OPERATIONS[field(CHANGE_OP)] as RecordedRequest['op'],
      offset: field(CHANGE_OFFSET),
      length: field(CHANGE_LENGTH),
      ...flagsOf(field(CHANGE_FLAGS)),
    }
  }
}
