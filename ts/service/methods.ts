import type { UblkDevice } from '../device.js'
import { UblkError } from '../errors.js'
import type { Size } from '../size.js'
import type { ServerInfo } from './client.js'
import type { Methods } from './control.js'
import { HandOver } from './hand-over.js'
import { supervision } from './notify.js'

/** Tells `line` of each request of a local device from now on, until what it returns is called. */
export type Tracer = (disk: UblkDevice, line: (text: string) => void) => () => void

/**
 * What others can ask the server of a device.
 *
 * @param takenBack - Makes it known again that this process serves the device.
 */
export function methodsFor(
  disk: UblkDevice,
  info: ServerInfo,
  takenBack: () => Promise<void>,
  tracer?: Tracer,
): Methods {
  const handOver = new HandOver(disk, takenBack)
  return {
    ping: () => null,
    info: () => info,
    stats: () => disk.stats(),
    resize: async ({ size, force }) => await disk.resize(size as Size, { force: force === true }),
    quiesce: async (_, { gone }) => await handOver.quiesce(gone),
    resume: async () => await handOver.resume(),
    release: async () => {
      await handOver.release()
      return supervision()
    },
    trace: async (_, { tell, gone }) => {
      if (!tracer) throw new UblkError('unsupported', 'this version cannot tell of single requests')
      if (gone.aborted) return
      const stop = tracer(disk, tell)
      await new Promise(resolve => gone.addEventListener('abort', resolve, { once: true }))
      stop()
    },
    shutdown: async ({ force, wait }, { gone }) => {
      await disk.delete({ force: force === true, wait: wait === true, signal: gone })
    },
  }
}
