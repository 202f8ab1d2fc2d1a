import * as native from '#binding'
import { nullDisk } from './backends/null.js'
import type { DeviceInfo } from './info.js'
import { refuseCrashes } from './kernels.js'
import { LocalDevices } from './local-devices.js'
import { toSpec } from './options/spec.js'
import type { PoolDeviceOptions } from './pool-options.js'

/** The block size of disks that are to have any backend but one with larger blocks. */
const BLOCK_SIZE = 512

type OnFetch = ((wanted: native.Wanted) => void) | null | undefined
type OnChange = (() => void) | null | undefined
type Receive = (event: native.DeviceEvent) => void

/** A started disk without a backend: it is empty, and the driver knows all about it but for its size. */
export class SpareDisk {
  readonly #device: native.Device
  readonly #events: { receive: Receive }

  private constructor(
    device: native.Device,
    events: { receive: Receive },
    /** The driver's view of it. */
    readonly info: DeviceInfo,
  ) {
    this.#device = device
    this.#events = events
  }

  /**
   * Creates one, and starts it.
   *
   * @param receive - Gets its events until it is bound.
   */
  static async create(
    options: PoolDeviceOptions,
    receive: (event: native.DeviceEvent) => void,
    cancel: native.Cancel,
  ): Promise<SpareDisk> {
    refuseCrashes()
    LocalDevices.open() // If this process exits, it is deleted.
    // The backend only has to have blocks of a possible size.
    const { backend: _, ...rest } = toSpec({ ...options, backend: nullDisk('4K') })
    const blockSize = (rest.blockSize as number | undefined) ?? BLOCK_SIZE
    const spec = { backend: { kind: 'unbound', blockSize }, options: rest, timeout: options.timeout }
    const events = { receive }
    const device = await native.Device.create(spec, cancel, event => events.receive(event))
    try {
      await device.start(cancel)
      return new SpareDisk(device, events, await device.info())
    } catch (error) {
      await device.delete(true, new native.Cancel()).catch(() => {}) // Report the first failure.
      throw error
    }
  }

  get id(): number {
    return this.#device.id
  }

  /** Whether it can still be bound. */
  get unbound(): boolean {
    return this.#device.unbound
  }

  /**
   * Gives it a backend. It is the same device in another object, whose events go to `receive`.
   *
   * @param show - Cancels that its disk gets its size, too; undefined if it is to stay empty yet.
   */
  async bind(
    spec: native.DeviceSpec,
    receive: Receive,
    [onFetch, onChange]: readonly [OnFetch?, OnChange?],
    show: native.Cancel | undefined,
  ): Promise<native.Device> {
    const before = this.#events.receive
    this.#events.receive = receive // What happens meanwhile concerns who takes it.
    try {
      return await this.#device.bind(spec, onFetch, onChange, show)
    } catch (error) {
      if (this.unbound) this.#events.receive = before
      throw error
    }
  }

  async delete(): Promise<void> {
    this.#events.receive = () => {}
    await this.#device.delete(true, new native.Cancel())
  }
}
