import { stackToRecord, stackWithoutClaims } from '../backends/stack.js'
import { type Json, toPlainJson } from '../json.js'
import type { CreateOptions, ServingOption } from '../options/device-options.js'
import { RECORDED_OPTIONS, SERVING_OPTIONS } from '../options/table.js'
import type { RecordedOptions } from '../remote/record-file.js'

/**
 * Puts a device's options into a form from which another process can make the same device.
 *
 * @throws UblkError of kind `invalid` if they hold what cannot be written down, such as functions.
 */
export function toRecorded(options: CreateOptions): RecordedOptions {
  const { backend, ...others } = options
  const recorded: { [name: string]: Json } = {}
  for (const [name, value] of Object.entries(others)) {
    if (RECORDED_OPTIONS.includes(name) && value !== undefined) recorded[name] = toPlainJson(value, name)
  }
  return { ...recorded, backend: stackToRecord(backend) }
}

/** The options that a record holds. They are checked as any are when they are used. */
export function fromRecorded(recorded: RecordedOptions): CreateOptions {
  return { ...recorded } as unknown as CreateOptions
}

/** Those of them that concern the server: the kernel knows the others. */
export function servingOptions(recorded: RecordedOptions): Pick<CreateOptions, ServingOption> {
  const serving = Object.entries(recorded).filter(([name]) => SERVING_OPTIONS.includes(name))
  return Object.fromEntries(serving) as unknown as Pick<CreateOptions, ServingOption>
}

/** The same backend, whose files are not claimed. */
export function withoutClaim(recorded: RecordedOptions): RecordedOptions {
  return { ...recorded, backend: stackWithoutClaims(recorded.backend) }
}
