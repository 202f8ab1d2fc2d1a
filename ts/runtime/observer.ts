import type * as native from '#binding'
import type { Operation } from '../operation.js'
import { inOneLine, onRejection } from '../user-values.js'
import { CHANGE_FIELDS, CHANGE_FLAGS, CHANGE_LENGTH, CHANGE_OFFSET, CHANGE_OP } from '../wire.js'
import type { Report } from './js-disk.js'
import { flagsOf, OPERATIONS, type RequestFlags } from './requests.js'

/** A changed range of a disk. */
export interface DiskChange extends RequestFlags {
  /** The operation that changed it. */
  readonly op: Extract<Operation, 'write' | 'discard' | 'writeZeroes'>
  /** Its offset in bytes. */
  readonly offset: number
  /** Its length in bytes. */
  readonly length: number
}

/** Gets the changes since its last call. */
export type Observe = (changes: readonly DiskChange[]) => void

/** Passes changes to an observer. An error that it throws is reported. */
export function tellChanges(device: native.Device, observe: Observe, report: Report): void {
  const numbers = device.takeChanges()
  if (numbers.length === 0) return
  const changes: DiskChange[] = []
  for (let at = 0; at < numbers.length; at += CHANGE_FIELDS) {
    const field = (number: number): number => numbers[at + number] as number
    changes.push({
      op: OPERATIONS[field(CHANGE_OP)] as DiskChange['op'],
      offset: field(CHANGE_OFFSET),
      length: field(CHANGE_LENGTH),
      ...flagsOf(field(CHANGE_FLAGS)),
    })
  }
  const failed = (error: unknown): void => report(`the observer of changes failed: ${inOneLine(error)}`)
  try {
    onRejection(observe(changes), failed)
  } catch (error) {
    failed(error)
  }
}
