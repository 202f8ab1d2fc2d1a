import type { UblkDevice } from '../device.js'
import type { FaultReport } from '../disk-faults.js'
import { UblkError, wrap } from '../errors.js'
import type {
  DeviceInfo,
  DiskLayer,
  LazyProgress,
  QueueStats,
  ServerConnection,
  StoredVolume,
} from '../info.js'
import { type ControlClient, connect } from '../remote/control-client.js'
import { hasFaults, hasNbd, hasVolume, isLazy, isOverlay } from '../remote/record-file.js'

/** A device's counters at one moment. */
export interface Reading {
  readonly device: DeviceInfo
  /** When, in milliseconds since some moment in the past. */
  readonly at: number
  /** The counters of each queue; none if its server does not answer. */
  readonly queues: readonly QueueStats[]
  /** How much of it is there, of a lazy disk. */
  readonly lazy: LazyProgress | null
  /** How it stands with its NBD servers. */
  readonly connection: ServerConnection | null
  /** How it stands with its volume in an object store. */
  readonly volume: StoredVolume | null
  /** What each layer of an overlay holds. */
  readonly layers: readonly DiskLayer[]
  /** What the rules of a disk with faults have done. */
  readonly faults: FaultReport | null
  /** Why its server does not answer. */
  readonly trouble: UblkError | null
}

/** What a server answers. */
type Answer = Pick<Reading, 'queues' | 'lazy' | 'connection' | 'volume' | 'layers' | 'faults'>

/** A server, and whether its disk is lazy, an overlay, at NBD servers, in an object store, or has rules for faults. */
interface Asked {
  readonly server: ControlClient
  readonly lazy: boolean
  readonly nbd: boolean
  readonly stored: boolean
  readonly overlay: boolean
  readonly faults: boolean
}

const NOTHING: Answer = { queues: [], lazy: null, connection: null, volume: null, layers: [], faults: null }

/** How long a server may take to answer, in milliseconds, so that it does not delay the others. */
const BRIEF = 2000

/** Reads devices' counters time and again, and keeps the connections to their servers. */
export class Readings implements Disposable {
  readonly #devices: Pick<typeof UblkDevice, 'list' | 'open'>
  readonly #servers = new Map<number, Asked>()

  constructor(devices: Pick<typeof UblkDevice, 'list' | 'open'>) {
    this.#devices = devices
  }

  /**
   * One device's.
   *
   * @throws UblkError of kind `not-found` if there is no such device, or its server has no record.
   */
  async one(id: number): Promise<Reading> {
    const reading = await this.#read(await (await this.#devices.open(id)).info())
    if (reading.trouble) throw reading.trouble
    return reading
  }

  /** Those of all devices, by id, including devices whose server does not answer. */
  async all(): Promise<Reading[]> {
    const devices = await this.#devices.list()
    for (const id of this.#servers.keys()) {
      if (!devices.some(device => device.id === id)) this.#drop(id)
    }
    return await Promise.all(devices.map(device => this.#read(device)))
  }

  async #read(device: DeviceInfo): Promise<Reading> {
    try {
      if (!device.serverAlive) throw nobody(device)
      const answer = await this.#ask(device.id)
      return { device, at: performance.now(), ...answer, trouble: null }
    } catch (error) {
      this.#drop(device.id)
      const at = performance.now()
      return { device, at, ...NOTHING, trouble: wrap(error) }
    }
  }

  async #ask(id: number): Promise<Answer> {
    const known = this.#servers.get(id)
    if (known) {
      try {
        return await countersOf(known)
      } catch (error) {
        this.#drop(id)
        if (wrap(error).kind === 'timeout') throw error
        // Otherwise another server may have taken over by now.
      }
    }
    const server = await connect(id, BRIEF)
    const asked = {
      server,
      lazy: isLazy(id),
      nbd: hasNbd(id),
      stored: hasVolume(id),
      overlay: isOverlay(id),
      faults: hasFaults(id),
    }
    this.#servers.set(id, asked)
    return await countersOf(asked)
  }

  #drop(id: number): void {
    this.#servers.get(id)?.server.close()
    this.#servers.delete(id)
  }

  [Symbol.dispose](): void {
    for (const id of [...this.#servers.keys()]) this.#drop(id)
  }
}

async function countersOf({ server, lazy, nbd, stored, overlay, faults }: Asked): Promise<Answer> {
  const [queues, progress, connection, volume, layers, report] = await Promise.all([
    server.stats(BRIEF),
    lazy ? server.lazyProgress(BRIEF) : null,
    nbd ? server.connection(BRIEF) : null,
    stored ? server.volume(BRIEF) : null,
    overlay ? server.layers(BRIEF) : [],
    faults ? server.faults<FaultReport>(BRIEF) : null,
  ])
  return { queues, lazy: progress, connection, volume, layers, faults: report }
}

function nobody({ id }: DeviceInfo): UblkError {
  return new UblkError('not-found', `nobody serves device ${id}`, { device: id })
}
