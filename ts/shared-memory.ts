import * as native from '#binding'
import { UblkError, wrap } from './errors.js'

/** Memory that a disk shares with its clients: see {@link ServedDevice.share}. */
export class SharedMemory {
  readonly #device: native.Device
  readonly #number: number
  #closed: Promise<void> | undefined

  /** @internal */
  constructor(
    device: native.Device,
    number: number,
    /** The path of the file. */
    readonly path: string,
  ) {
    this.#device = device
    this.#number = number
  }

  /**
   * Stops sharing the memory: the driver copies its clients' data again. The file stays. Waits until no request is in
   * flight. Calling it again has no effect.
   *
   * @throws UblkError: `closed` if the device was stopped or deleted, `timeout`.
   */
  async close(): Promise<void> {
    this.#closed ??= this.#device.unshare(this.#number, new native.Cancel()).catch((error: unknown) => {
      throw wrap(error)
    })
    await this.#closed
  }

  /** As {@link SharedMemory.close}, but does not fail if the disk was removed. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close().catch((error: unknown) => {
      if (!(error instanceof UblkError) || error.kind !== 'closed') throw error
    })
  }
}
