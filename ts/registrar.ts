import type { FileOfDisk } from '#binding'
import { UblkError } from './errors.js'
import type { Follower } from './local-device.js'
import type { CreateOptions } from './options/device-options.js'
import type { ServedDevice } from './served-device.js'

/**
 * Registers a device, so that other processes find its server.
 *
 * @param files - The identity of the files that hold the disk's data.
 * @param tell - For an existing device, which is served even if it cannot be registered: called with the reason. Without
 *   it that reason is thrown.
 */
export type Register = (
  disk: ServedDevice,
  files: readonly FileOfDisk[],
  tell?: (error: UblkError) => void,
) => Promise<Follower>

/** Keeps the records of devices whose options ask for one; see {@link CreateOptions.record}. */
export interface Registrar {
  /**
   * Called before the device is made.
   *
   * @throws UblkError if the device could not be registered later.
   */
  prepare(options: CreateOptions): Register
}

let load: (() => Promise<Registrar>) | undefined

/** Names what loads the registrar, which the package's entry does: no file of the library knows its room. */
export function setRegistrar(loader: () => Promise<Registrar>): void {
  load = loader
}

/** The registrar, loaded when a device first asks for a record. */
export async function registrar(): Promise<Registrar> {
  if (load) return await load()
  throw new UblkError('unsupported', 'nothing keeps records of devices here', {
    hint: 'import ublk-ts itself',
  })
}
