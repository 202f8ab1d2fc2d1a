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
    /** The file that it is. */
    readonly path: string,
  ) {
    this.#device = device
    this.#number = number
  }

  /**
   * Shares it no more; its clients' data is copied again. The file stays. Resolves when no request is under way; closing
   * it again does nothing.
   *
   * @throws UblkError: `closed` if the device was stopped or deleted, `timeout`.
   */
  async close(): Promise<void> {
    this.#closed ??= this.#device.unshare(this.#number, new native.Cancel()).catch((error: unknown) => {
      throw wrap(error)
    })
    await this.#closed
  }

  /** As {@link SharedMemory.close}, and content if the disk is gone. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close().catch((error: unknown) => {
      if (!(error instanceof UblkError) || error.kind !== 'closed') throw error
    })
  }
}
