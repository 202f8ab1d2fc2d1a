import type { FaultPlan } from '../backends/fault-rules.js'
import { wrongType } from '../errors.js'
import type { DiskRange } from '../info.js'
import type { ServerInfo, TracePart } from '../remote/control-protocol.js'
import type { ServedDevice } from '../served-device.js'
import type { Size } from '../size.js'
import type { TraceRecord } from '../trace.js'
import type { Methods } from './control-socket.js'
import { HandOver } from './hand-over.js'
import { supervision } from './systemd-notify.js'

/** How often a client that has missed records is notified, in milliseconds. */
const CATCH_UP = 100

/**
 * The methods of a device's control socket.
 *
 * @param takenBack - Registers the device again, after this process has taken it back.
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
    lazyProgress: () => disk.lazyProgress(),
    connection: async () => (await disk.connection()) ?? null,
    volume: async () => (await disk.volume()) ?? null,
    prefetch: async ({ ranges }, { gone }) => {
      await disk.prefetch(ranges as readonly DiskRange[], { signal: gone })
    },
    checkpoint: async ({ name }) => await disk.checkpoint(name as string),
    checkpoints: () => disk.checkpoints(),
    removeCheckpoint: async ({ name }) => await disk.removeCheckpoint(name as string),
    changedPart: async ({ since, from }) => await disk.changedPart(String(since), Number(from)),
    diff: async (wishes, { gone }) => await disk.writeDiff(wishes, gone),
    setFaults: async plan => await disk.faults.set(plan as FaultPlan),
    faults: () => disk.faults.get(),
    thaw: () => disk.faults.thaw(),
    mark: ({ name }) => disk.mark(name as string),
    exportLog: async ({ path }, { gone }) => await disk.exportLog(path as string, { signal: gone }),
    resize: async ({ size, force }) => await disk.resize(size as Size, { force: isSet({ force }) }),
    snapshot: async ({ name }) => await disk.snapshot(name as string),
    snapshots: () => disk.snapshots(),
    removeSnapshot: async ({ name }) => await disk.removeSnapshot(name as string),
    reset: async ({ force }) => await disk.reset({ force: isSet({ force }) }),
    flatten: async ({ rate }, { gone }) => {
      await disk.flatten({ ...(rate === undefined ? {} : { rate: rate as number }), signal: gone })
    },
    commit: async ({ rate, force }, { gone }) => {
      const limit = rate === undefined ? {} : { rate: rate as number }
      await disk.commit({ ...limit, force: isSet({ force }), signal: gone })
    },
    committing: async () => (await disk.committing()) ?? null,
    flattening: async () => (await disk.flattening()) ?? null,
    move: async ({ backend, rate, overwrite }, { gone }) => {
      const limit = rate === undefined ? {} : { rate: rate as number }
      await disk.move(backend as never, { ...limit, overwrite: isSet({ overwrite }), signal: gone })
    },
    moving: async () => (await disk.moving()) ?? null,
    resync: async ({ rate }, { gone }) => {
      await disk.resync({ ...(rate === undefined ? {} : { rate: rate as number }), signal: gone })
    },
    resyncing: async () => (await disk.resyncing()) ?? null,
    sides: () => disk.sides(),
    layers: () => disk.layers(),
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
      // There may be no further records with which to send it.
      const later = setInterval(() => missed > 0 && listener([], 0), CATCH_UP).unref()
      await disk.trace(listener, { signal: gone }).finally(() => clearInterval(later))
    },
    heat: async (_, { tell, gone }) => await disk.heat(tell, gone),
    shutdown: async ({ force, wait }, { gone }) => {
      // A forced shutdown is completed even if its client has gone.
      const signal = isSet({ force }) ? undefined : gone
      await disk.delete({ force: isSet({ force }), wait: isSet({ wait }), signal })
    },
  }
}

/** Whether a param is true. One that is neither true, false nor left out is refused: it would be ignored. */
function isSet(param: { readonly [name: string]: unknown }): boolean {
  const [[name, value = false] = ['', false]] = Object.entries(param)
  if (typeof value !== 'boolean') throw wrongType(`${name} must be true or false`)
  return value
}
