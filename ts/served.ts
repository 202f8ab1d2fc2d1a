import * as native from '#binding'

/** A device that this process serves, shared by all handles to it. */
export class Served {
  /** Whether it is gone, and its number may be another's. */
  deleted = false
  #keepAlive: NodeJS.Timeout | undefined

  constructor(readonly device: native.Device) {
    served.set(device.id, this)
  }

  /** Keeps Node running, as a listening socket does. */
  hold(): void {
    const LONGEST = 2 ** 31 - 1
    this.#keepAlive ??= setInterval(() => {}, LONGEST)
  }

  /** Lets Node end. */
  release(): void {
    clearInterval(this.#keepAlive)
    this.#keepAlive = undefined
  }

  /** Notes that the device is gone. */
  forget(): void {
    this.release()
    this.deleted = true
    if (served.get(this.device.id) === this) served.delete(this.device.id)
  }
}

/** All of them, by id. */
export const served: Map<number, Served> = new Map()

// `process.exit()` would leave them behind, dead.
process.once('exit', native.deleteServedDevices)
