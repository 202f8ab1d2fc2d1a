import type { ServerInfo, TracePart } from '../remote/control-protocol.js'
import type { ServedDevice } from '../served-device.js'
import type { Size } from '../size.js'
import type { TraceRecord } from '../trace.js'
import type { Methods } from './control-socket.js'
import { HandOver } from './hand-over.js'
import { supervision } from './systemd-notify.js'

/** How often who has missed something is told so, in milliseconds. */
const CATCH_UP = 100

/**
 * What others can ask the server of a device.
 *
 * @param takenBack - Makes it known again that this process serves the device.
 */
export function controlMethods(
  disk: ServedDevice,
  info: ServerInfo,
  takenBack: () => Promise<void>,
): Methods {
  const handOver = new HandOver(disk, takenBack)
  return {
    ping: () => null,
    info: () => info,
    device: () => disk.info(),
    stats: () => disk.stats(),
    resize: async ({ size, force }) => await disk.resize(size as Size, { force: force === true }),
    quiesce: async (_, { gone }) => await handOver.quiesce(gone),
    resume: async () => await handOver.resume(),
    release: async () => {
      await handOver.release()
      return supervision()
    },
    trace: async (_, { tell, gone }) => {
      let missed = 0
      const listener = (records: readonly TraceRecord[], dropped: number): void => {
        const part: TracePart = { records, dropped: dropped + missed }
        missed = tell(part) ? 0 : part.dropped + records.length
      }
      // There may be no more requests to tell it with.
      const later = setInterval(() => missed > 0 && listener([], 0), CATCH_UP).unref()
      await disk.trace(listener, { signal: gone }).finally(() => clearInterval(later))
    },
    shutdown: async ({ force, wait }, { gone }) => {
      // What is done by force is done to its end, whoever still waits for it.
      const signal = force === true ? undefined : gone
      await disk.delete({ force: force === true, wait: wait === true, signal })
    },
  }
}
