import type * as native from '#binding'
import { wrap } from './errors.js'
import type { HeatPart } from './info.js'
import { HEAT_CELL, HEAT_FAULTS, HEAT_FIELDS, HEAT_READ, HEAT_WRITTEN } from './wire.js'

/** How often a part is told, in milliseconds. */
const PERIOD = 1000

/**
 * Tells once a second where a device's disk was read and written meanwhile, until the signal is aborted. `tell` returns whether
 * it took the part: what it did not take is told with the next one.
 *
 * @throws UblkError of kind `limit` if the device is already traced eight times; `closed` if it was deleted.
 */
export async function heatOf(
  device: native.Device,
  tell: (part: HeatPart) => boolean,
  signal: AbortSignal,
): Promise<void> {
  let telling = new Telling(device, tell)
  try {
    while (await nextPeriod(signal)) {
      // Its cells are those of one size.
      if (device.backendSize !== telling.size) {
        telling.stop()
        telling = new Telling(device, tell)
      }
      await telling.next()
    }
  } catch (error) {
    if (!signal.aborted) throw wrap(error)
  } finally {
    telling.stop()
  }
}

async function nextPeriod(signal: AbortSignal): Promise<boolean> {
  if (signal.aborted) return false
  await new Promise<void>(resolve => {
    const done = (): void => {
      clearTimeout(timer)
      signal.removeEventListener('abort', done)
      resolve()
    }
    const timer = setTimeout(done, PERIOD).unref()
    signal.addEventListener('abort', done)
  })
  return !signal.aborted
}

type Maps = Pick<HeatPart, 'present' | 'dirty' | 'layered'>

/** What is told of a disk of one size. */
class Telling {
  readonly size: number
  readonly #device: native.Device
  readonly #tell: (part: HeatPart) => boolean
  readonly #heat: native.Heat
  /** What was not told yet, by cell. */
  #counts = new Map<number, readonly [read: number, written: number, faults: number]>()
  #lost = 0
  #told: Maps = {}

  constructor(device: native.Device, tell: (part: HeatPart) => boolean) {
    this.#device = device
    this.#tell = tell
    try {
      this.size = device.backendSize
      this.#heat = device.heat(this.size)
    } catch (error) {
      throw wrap(error)
    }
  }

  stop(): void {
    this.#heat.stop()
  }

  async next(): Promise<void> {
    const { size } = this
    const { cell } = this.#heat
    const { present, dirty, layered } = await this.#device.shares(size, cell)
    const maps: Maps = { present: encoded(present), dirty: encoded(dirty), layered: encoded(layered) }
    this.#take()
    const counts = [...this.#counts].flatMap(([cell, done]) => [cell, ...done])
    const part = { size, cell, counts, lost: this.#lost, ...changed(this.#told, maps) }
    if (!this.#tell(part)) return
    this.#counts.clear()
    this.#lost = 0
    this.#told = maps
  }

  #take(): void {
    const { cells, lost } = this.#heat.take()
    this.#lost += lost
    for (let at = 0; at < cells.length; at += HEAT_FIELDS) {
      const field = (number: number): number => cells[at + number] ?? 0
      const [read, written, faults] = this.#counts.get(field(HEAT_CELL)) ?? [0, 0, 0]
      this.#counts.set(field(HEAT_CELL), [
        read + field(HEAT_READ),
        written + field(HEAT_WRITTEN),
        faults + field(HEAT_FAULTS),
      ])
    }
  }
}

function encoded(bytes: Uint8Array | undefined): string | null {
  return bytes ? Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64') : null
}

/** The maps that are not as they were told. */
function changed(told: Maps, now: Maps): Maps {
  return Object.fromEntries(Object.entries(now).filter(([name, map]) => told[name as keyof Maps] !== map))
}
