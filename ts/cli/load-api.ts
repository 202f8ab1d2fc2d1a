import { UblkError } from '../errors.js'

/** All that needs the native part. */
export type Api = typeof import('../index.js')

/** Loads it only when a command needs it, so that the others work, and explain, without it. */
export async function loadApi(): Promise<Api> {
  try {
    return await import('../index.js')
  } catch (cause) {
    const hint = 'ublk-ts doctor says why'
    throw new UblkError('system', 'the native part of ublk-ts cannot be loaded', { hint, cause })
  }
}
