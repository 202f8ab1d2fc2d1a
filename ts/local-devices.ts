import * as native from '#binding'
import type { LocalDevice } from './local-device.js'

/** The devices that this process serves, by number. */
export class LocalDevices {
  static #all: LocalDevices | undefined
  readonly #byId = new Map<number, LocalDevice>()

  private constructor() {
    // `process.exit()` would leave the devices behind, without a server. A process, or Worker, that fails leaves those
    // that another can recover.
    process.once('exit', status => {
      native.endServedDevices(status !== 0)
      for (const device of this.#byId.values()) device.exiting()
    })
  }

  /** All of them: one object, made before the first device is. */
  static open(): LocalDevices {
    LocalDevices.#all ??= new LocalDevices()
    return LocalDevices.#all
  }

  /** The device with a number, if this process serves it. */
  static find(id: number): LocalDevice | undefined {
    const devices = LocalDevices.#all
    return devices === undefined ? undefined : devices.#byId.get(id)
  }

  /** Adds a device, until this process serves it no more. */
  add(device: LocalDevice): void {
    const { id } = device.device
    this.#byId.set(id, device)
    const remove = (): void => {
      if (this.#byId.get(id) === device) this.#byId.delete(id)
    }
    device.follow({
      live: async () => {},
      waits: () => {},
      deleted: remove,
      released: remove,
      exiting: () => {},
    })
  }
}
