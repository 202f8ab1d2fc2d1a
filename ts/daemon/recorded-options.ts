import { stackToRecord, stackWithoutClaims } from '../backends/stack.js'
import { type Json, toPlainJson } from '../json.js'
import type { CreateOptions, RecoverOptions } from '../lifecycle-options.js'
import type { RecordedOptions } from '../remote/record-file.js'

/** Not the device's looks, or kept elsewhere in the record. */
const ELSEWHERE: ReadonlySet<string> = new Set<keyof CreateOptions | keyof RecoverOptions>([
  'id',
  'start',
  'signal',
  'record',
  'onReady',
  'otherFile',
])

/**
 * Puts a device's options into a form from which another process can make the same device.
 *
 * @throws UblkError of kind `invalid` if they hold what cannot be written down, such as functions.
 */
export function toRecorded(options: CreateOptions): RecordedOptions {
  const { backend, ...rest } = options
  const looks: { [key: string]: Json } = {}
  for (const [key, value] of Object.entries(rest)) {
    if (!ELSEWHERE.has(key) && value !== undefined) looks[key] = toPlainJson(value, key)
  }
  return { ...looks, backend: stackToRecord(backend) }
}

/** The options that a record holds. They are checked as any are when they are used. */
export function fromRecorded(recorded: RecordedOptions): CreateOptions {
  return { ...recorded } as unknown as CreateOptions
}

/** The same backend, whose files are not claimed. */
export function withoutClaim(recorded: RecordedOptions): RecordedOptions {
  return { ...recorded, backend: stackWithoutClaims(recorded.backend) }
}
