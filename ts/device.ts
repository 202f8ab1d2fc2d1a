import * as native from '#binding'
import { abortable } from './abort.js'
import { allDevices } from './all-devices.js'
import { DeviceContent } from './device-content.js'
import { tellOfDisk } from './diagnostics.js'
import { endDevice } from './end-device.js'
import { rethrow } from './errors.js'
import type { DeviceInfo } from './info.js'
import {
  checkCreate,
  checkEnd,
  checkRecover,
  checkResize,
  type EndOptions,
  type RecoverOptions,
  type ResizeOptions,
} from './lifecycle-options.js'
import type { LocalDevice } from './local-device.js'
import { LocalDevices } from './local-devices.js'
import type { CreateOptions } from './options/device-options.js'
import { connect } from './remote/control-client.js'
import { identityOf } from './remote/identity.js'
import { ofServer } from './remote/info-from-server.js'
import { idOf, linksTo } from './remote/names.js'
import { removeStale } from './remote/record-file.js'
import type { ServedDevice } from './served-device.js'
import { parseSize, type Size } from './size.js'

/**
 * A handle to a ublk device of this machine, which any process may serve. {@link UblkDevice.open} returns one for an
 * existing device. {@link UblkDevice.create} creates a device that this process serves, and returns a
 * {@link ServedDevice}, which has more methods.
 *
 * If another process serves the device, `stats`, `trace`, `resize`, `snapshot`, `reset` and the like are sent to that process. For this the device needs
 * a record: `ublk-ts create` and the option `record` write one.
 *
 * @example
 * ```ts
 * const disk = await UblkDevice.create({ backend: memory('16M') })
 * console.log(disk.path) // /dev/ublkb0
 * await disk.delete()
 * ```
 */
export class UblkDevice extends DeviceContent implements AsyncDisposable {
  readonly #local: LocalDevice | undefined

  /** @internal */
  protected constructor(info: DeviceInfo) {
    const local = LocalDevices.find(info.id)
    super(info, local)
    this.#local = local
  }

  /**
   * Creates a disk and serves it from this process. Resolves when its path is usable.
   *
   * @throws UblkError: `invalid` for a wrong option, or one that cannot be recorded, `backend` if the file cannot be used,
   * `busy` if another process uses it, `exists` if the id is taken, `limit`, `no-driver`, `no-permission`,
   * `no-io-uring`, `unsupported`, `timeout`.
   * @throws the signal's reason if it was aborted.
   */
  static async create(options: CreateOptions): Promise<ServedDevice> {
    checkCreate(options)
    return await (await servedDevice()).create(options)
  }

  /**
   * Takes over a device that was created with `recovery` and has no server, because that was killed or has quiesced it.
   * The disk existed all the time, and its users continue. Waits if the old server is just exiting.
   *
   * @param device - The number of the device, or its path or name as text.
   * @param options - With a backend that holds the disk's data.
   * @throws UblkError: `busy` if it is served, or another process uses its file, `backend` if it was created from
   *   another file, `unsupported` if it was created without `recovery`, `invalid` if the backend does not fit it,
   *   `not-found` if there is no such device, or it has no disk; and as {@link UblkDevice.create}. The device is then
   *   unchanged.
   */
  static async recover(device: number | string, options: RecoverOptions): Promise<ServedDevice> {
    const id = idOf(device)
    checkRecover(options)
    return await (await servedDevice()).recover(id, options)
  }

  /**
   * Returns a handle to an existing device, which any process may serve. Disposing of the handle does nothing.
   *
   * @param device - The number of the device, or text: its path, or the name of its disk (see {@link CreateOptions.name}).
   * @throws UblkError of kind `not-found` if there is no such device.
   *
   * @example
   * ```ts
   * const disk = await UblkDevice.open('/dev/ublkb0') // or 0
   * ```
   */
  static async open(device: number | string): Promise<UblkDevice> {
    const id = idOf(device)
    const info = await native.openDevice(id).catch(error => ofServer(id, error))
    return new UblkDevice(info)
  }

  /** All ublk devices of this machine that the caller may see, by id. */
  static async list(): Promise<DeviceInfo[]> {
    return await allDevices()
  }

  /**
   * Changes the disk's size while it is in use. Added space reads as zeroes, except on a block device, which keeps the
   * data that it has there; data beyond a new, smaller size is lost. A file is resized, too; a disk written in JavaScript
   * needs a method `resize`.
   *
   * @param size - Bytes, or text such as `'2G'`; a multiple of the block size.
   * @throws UblkError of kind `unsupported` before kernel 6.16, or if the backend cannot be resized; `invalid` for a size
   * that is not possible; `busy` for shrinking a disk in use, unless `force` is given; `not-found` if another process
   * serves it and has no record.
   */
  async resize(size: Size, options: ResizeOptions = {}): Promise<void> {
    const bytes = parseSize(size)
    checkResize(options)
    const { force = false, signal } = options
    const local = this.#local
    try {
      if (local) return await abortable(signal, cancel => local.resize(bytes, force, cancel))
      signal?.throwIfAborted()
      using server = await connect(this.id)
      await server.resize(bytes, { force, signal })
    } finally {
      await this.info().catch(() => {})
    }
  }

  /**
   * Removes the disk and stops serving it. A device of this process can be started again; a memory disk keeps its
   * contents until then.
   *
   * @throws UblkError of kind `busy` if the disk is in use, unless `force` or `wait` is given.
   */
  async stop(options: EndOptions = {}): Promise<void> {
    checkEnd(options, 'stop()')
    await endDevice(this, this.#local, 'stop', options)
    tellOfDisk(this, 'stopped', [])
  }

  /**
   * Stops the device if needed and removes it. Deleting it again does nothing.
   *
   * @throws UblkError of kind `busy` if the disk is in use, unless `force` or `wait` is given; `not-found` if another
   * process's device does not exist any more.
   */
  async delete(options: EndOptions = {}): Promise<void> {
    checkEnd(options, 'delete()')
    if (this.#local?.ended) return await this.#local.forget()
    const [identity, links] = [identityOf(this.id), linksTo(this.id)]
    const byServer = await endDevice(this, this.#local, 'delete', options)
    tellOfDisk(this, 'deleted', [])
    if (this.#local) return await this.#local.forget()
    links.remove()
    if (!byServer) removeStale(this.id, identity)
  }

  /** Does nothing: the device is not affected. */
  async [Symbol.asyncDispose](): Promise<void> {}
}

/** Loaded by the first device that is created: it extends the class above. */
async function servedDevice(): Promise<typeof ServedDevice> {
  const { ServedDevice } = await import('./served-device.js').catch(rethrow)
  return ServedDevice
}
