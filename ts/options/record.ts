import { checkFunction, checkOptions } from '../check.js'
import { wrongType } from '../errors.js'
import type { Json } from '../json.js'
import { nameOf } from '../user-values.js'

/** What else a device's record is to say; see `CreateOptions.record`. */
export interface RecordOptions {
  /** The path of the server's log, or a function that returns it for the device's number; `ublk-ts show` prints it. */
  log?: string | ((id: number) => string)
  /** Files to remove together with the device, whichever process deletes it. */
  scratch?: readonly string[]
  /** Any data for the process that takes over the device. */
  notes?: { readonly [key: string]: Json }
}

/** @throws UblkError of kind `invalid`. */
export function checkRecord(record: unknown): void {
  if (record === undefined || typeof record === 'boolean') return
  checkOptions<RecordOptions>(record, 'record', { log: true, scratch: true, notes: true })
  const { log, scratch } = record
  if (log !== undefined && typeof log !== 'string') checkFunction(log, 'the log of the record')
  const isText = (value: unknown): boolean => typeof value === 'string'
  if (scratch !== undefined && !(Array.isArray(scratch) && scratch.every(isText))) {
    throw wrongType(`the scratch of the record must be a list of paths, not ${nameOf(scratch)}`)
  }
}
