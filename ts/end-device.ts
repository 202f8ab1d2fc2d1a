import { setTimeout as sleep } from 'node:timers/promises'
import { abortable } from './abort.js'
import { wrap } from './errors.js'
import type { EndOptions } from './lifecycle-options.js'
import type { LocalDevice } from './local-device.js'
import { endRemoteDevice } from './remote/end-remote-device.js'
import { RemovalProgress } from './removal-progress.js'

/** How often a disk in use is checked, in milliseconds. */
const POLL = 250

/**
 * Stops or deletes a device of any process.
 *
 * @param local - The device, if this process serves it.
 * @returns Whether the server, in another process, did it.
 */
export async function endDevice(
  device: { readonly id: number; readonly path: string },
  local: LocalDevice | undefined,
  what: 'stop' | 'delete',
  options: EndOptions,
): Promise<boolean> {
  const { force = false, wait = false, signal, onProgress = () => {} } = options
  using progress = new RemovalProgress(device.id, device.path, onProgress)
  const say = (line: string): void => progress.say(line)
  const byServer = await abortable(signal, async cancel => {
    const end = async (): Promise<boolean> => {
      if (!local) return await endRemoteDevice(device.id, { what, force, say }, cancel)
      const here = (): Promise<void> => local.device[what](force, cancel)
      await (force ? local.byForce(here) : here())
      return false
    }
    for (;;) {
      try {
        return await end()
      } catch (error) {
        const failure = wrap(error)
        if (!wait || failure.kind !== 'busy') throw failure
        say(failure.message)
      }
      await sleep(POLL, undefined, { signal }).catch(() => signal?.throwIfAborted())
    }
  })
  local?.callbacks.end()
  local?.release()
  return byServer
}
