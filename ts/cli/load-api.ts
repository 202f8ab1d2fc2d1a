import { UblkError, wrap } from '../errors.js'
import type { DeviceInfo } from '../info.js'

/** All that needs the native part. */
export type Api = typeof import('../index.js')

/** Loads it only when a command needs it, so that the others work, and explain, without it. */
export async function loadApi(): Promise<Api> {
  return await import('../index.js').catch(notLoaded)
}

/** All devices. It loads little besides the native part. */
export async function listDevices(): Promise<DeviceInfo[]> {
  const { allDevices } = await import('../all-devices.js').catch(notLoaded)
  return await allDevices()
}

function notLoaded(cause: unknown): never {
  const hint = wrap(cause).hint ?? 'ublk-ts doctor says why'
  throw new UblkError('system', 'the native part of ublk-ts cannot be loaded', { hint, cause })
}
