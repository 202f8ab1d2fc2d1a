import * as native from '#binding'
import type { AutoChoice } from './choice.js'
import { wrap } from './errors.js'

/** One feature of the kernel's ublk driver. */
export interface Feature {
  /** The kernel's name for it, such as `USER_RECOVERY`. */
  name: string
  /** The number of its bit, from 0. */
  bit: number
  /** The first kernel version with it, such as `6.1`. */
  since: string
  /** Whether the running kernel has it. */
  supported: boolean
  /** What it does, in a few words. */
  summary: string
}

/**
 * The driver features known to this package, and which of them the running kernel has.
 *
 * @throws UblkError of kind `no-driver`, `no-permission` or `no-io-uring` if the driver cannot be asked.
 */
export async function features(): Promise<Feature[]> {
  return await native.features().catch(error => {
    throw wrap(error)
  })
}

/**
 * The transport and copy mode that `auto` chooses on this kernel, for this user, for each kind of backend.
 *
 * @throws UblkError of kind `no-driver`, `no-permission` or `no-io-uring` if the driver cannot be asked.
 */
export async function autoChoices(): Promise<AutoChoice[]> {
  return await native.usualChoices().catch(error => {
    throw wrap(error)
  })
}
