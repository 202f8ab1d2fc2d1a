import type * as native from '#binding'
import { abortable } from './abort.js'
import { isNative, kindOf, type NativeBackend } from './backends/list.js'
import { fillingOf, prepared } from './backends/stack.js'
import type { WorkerBackend } from './backends/worker.js'
import { rethrow, type UblkError, wrap } from './errors.js'
import type { DeviceInfo } from './info.js'
import { LocalDevice } from './local-device.js'
import { LocalDevices } from './local-devices.js'
import type { CreateOptions } from './options/device-options.js'
import { jsTimes, toSpec } from './options/spec.js'
import { type Register, registrar } from './registrar.js'
import { linksTo, NameLink, nameOfDevice, refuseTaken } from './remote/names.js'
import { toExternal } from './runtime/backend-properties.js'
import type { Report } from './runtime/js-disk.js'
import type { JsServer } from './runtime/js-server.js'
import { NativeCallbacks } from './runtime/native-callbacks.js'
import { needsNode } from './runtime/node-only.js'
import type { Progress } from './runtime/worker-handle.js'
import type { ServedDevice } from './served-device.js'
import { inOneLine } from './user-values.js'

/** Receives a device's events. */
export interface Receiver {
  onEvent(event: native.DeviceEvent): void
  report(message: string): void
}

/** The native options of a device. */
export type Calls = Parameters<typeof native.Device.create>

/**
 * The steps from an option object to a device that this process serves. Each step registers how to undo it; when one
 * fails, or the signal aborts, the steps before it are undone in reverse order.
 */
export class Launch {
  #options: CreateOptions
  readonly #undo: (() => Promise<unknown>)[] = []
  /** As it was described, before anything was asked for it. */
  readonly #described: NativeBackend | undefined
  #register: Register | undefined
  #device: native.Device | undefined
  #entry: LocalDevice | undefined
  #receiver: Receiver | undefined
  /** Events from before there was a receiver; undefined when the device is gone. */
  #early: ((receiver: Receiver) => void)[] | undefined = []

  // Not made where the device is a variable: functions of one scope keep all that one of them uses.
  readonly #onEvent = (event: native.DeviceEvent): void => this.#tell(receiver => receiver.onEvent(event))
  readonly #report: Report = message => this.#tell(receiver => receiver.report(message))

  private constructor(options: CreateOptions) {
    this.#options = options
    this.#described = isNative(options.backend) ? options.backend : undefined
  }

  /**
   * Runs `steps`, of which one has to {@link commit}. When one before that fails, undoes those before it, and rejects with
   * that failure.
   */
  static async run<T>(
    options: CreateOptions,
    steps: (launch: Launch, cancel: native.Cancel) => Promise<T>,
  ): Promise<T> {
    return await abortable(options.signal, async cancel => {
      const launch = new Launch(options)
      try {
        return await steps(launch, cancel)
      } catch (error) {
        for (const undo of launch.#undo.splice(0).reverse()) await undo().catch(() => {})
        throw error
      }
    })
  }

  /** Checks that the device can be recorded, if that is wanted, and loads a backend that is written in JavaScript. */
  async load(): Promise<JsServer | undefined> {
    if (this.#options.record) this.#register = (await registrar()).prepare(this.#options)
    if (this.#options.name !== undefined) refuseTaken(this.#options.name)
    const { backend, signal = new AbortController().signal } = this.#options
    this.#options = { ...this.#options, backend: await prepared(backend, signal) }
    const server = await this.#serve(this.#report)
    if (server) this.#undo.push(() => server.close())
    return server
  }

  /**
   * Makes a device with `make`, and registers it in this process.
   *
   * @param cancel - Not kept: the device's listeners keep this object, and a cancel token has a file descriptor.
   * @param end - Deletes or releases it.
   * @param stays - Whether it exists after that.
   * @param look - What it is like, if that is known already.
   */
  async enter(
    cancel: native.Cancel,
    server: JsServer | undefined,
    make: (calls: Calls) => Promise<native.Device>,
    end: (device: native.Device) => Promise<void>,
    stays: boolean,
    look = async (device: native.Device): Promise<DeviceInfo> => await device.info(),
  ): Promise<{ entry: LocalDevice; info: DeviceInfo }> {
    const { backend, observe } = this.#options
    const callbacks = new NativeCallbacks(fillingOf(backend), observe, this.#report)
    const spec = specFor(this.#options, server)
    const devices = LocalDevices.open() // If this process exits while the device is made, it is deleted.
    const device = await make([spec, cancel, this.#onEvent, callbacks.onFetch, callbacks.onChange])
    this.#device = device
    const entry = new LocalDevice(device, server, this.#described, callbacks, () => this.#detach())
    this.#entry = entry
    devices.add(entry)
    this.#undo.push(
      () => entry.forget({ stays }),
      () => end(device),
    )
    this.#name(entry, stays)
    const info = await look(device)
    entry.describe(info)
    return { entry, info }
  }

  /** Makes the link that is the device's name. An existing device is served without it rather than not at all. */
  #name(entry: LocalDevice, stays: boolean): void {
    const { id } = entry.device
    const name = stays ? nameOfDevice(id) : this.#options.name
    if (!stays) linksTo(id).remove() // They are left of an earlier device.
    if (name === undefined) return
    const attempt = (make: () => void): void => {
      try {
        make()
      } catch (error) {
        if (!stays) throw error
        this.#report(`the name of device ${id} is missing: ${inOneLine(error)}`)
      }
    }
    attempt(() => {
      const link = new NameLink(name, id)
      entry.follow({
        live: async () => attempt(() => link.make()),
        waits: () => {},
        deleted: () => link.remove(),
        released: () => {},
        exiting: () => link.removeIfGone(),
      })
    })
  }

  /**
   * The device is this process's for good: nothing is undone from now on.
   *
   * @throws the signal's reason if it was aborted.
   */
  commit(): void {
    this.#options.signal?.throwIfAborted()
    this.#undo.length = 0
    this.#device?.keep()
  }

  /** Whether the device is registered by {@link announce}. */
  get records(): boolean {
    return this.#register !== undefined
  }

  /** Sends `receiver` the events so far, and all later ones. */
  attach(receiver: Receiver): void {
    this.#receiver = receiver
    for (const tell of this.#early?.splice(0) ?? []) tell(receiver)
  }

  /**
   * Registers the device, if that is wanted.
   *
   * @param tell - As for {@link Register}. With it this never fails.
   */
  async announce(disk: ServedDevice, tell?: (error: UblkError) => void): Promise<void> {
    const [entry, register] = [this.#entry, this.#register]
    if (!register || !entry) return
    try {
      entry.follow(await register(disk, entry.device.files(), tell))
    } catch (error) {
      if (!tell) throw error
      tell(wrap(error))
    }
  }

  /**
   * The native device holds its listeners, and through them this object, for as long as it is held itself. With a reference
   * from here, neither could be garbage.
   */
  #detach(): void {
    this.#device = undefined
    this.#entry = undefined
    this.#receiver = undefined
    this.#early = undefined
  }

  #tell(tell: (receiver: Receiver) => void): void {
    if (this.#receiver) tell(this.#receiver)
    else this.#early?.push(tell)
  }

  #progress(queue: number): Progress {
    const stats = this.#device?.stats()[queue]
    if (!stats) return { answered: 0, inFlight: 0 }
    const { read, write, flush, discard, writeZeroes, inFlight } = stats
    return { answered: read.ops + write.ops + flush.ops + discard.ops + writeZeroes.ops, inFlight }
  }

  /** The server of a disk written in JavaScript. */
  async #serve(report: Report): Promise<JsServer | undefined> {
    const { backend, signal } = this.#options
    const kind = kindOf(backend)
    const { timeout, stuckTimeout } = jsTimes(this.#options)
    if (kind?.native) return undefined
    needsNode()
    // Most disks need neither of the two.
    if (!('kind' in backend)) {
      const { InlineServer } = await import('./runtime/inline-server.js').catch(rethrow)
      return new InlineServer(backend, timeout, report)
    }
    if (kind === undefined) return undefined // The check of the options refuses an unknown one.
    const { url, options } = kind.check(backend) as WorkerBackend
    const progress = (queue: number): Progress => this.#progress(queue)
    const { WorkerPool } = await import('./runtime/worker-pool.js').catch(rethrow)
    return await WorkerPool.load({ url, options, progress, report, timeout, stuckTimeout }, signal)
  }
}

function specFor(options: CreateOptions, server: JsServer | undefined): native.DeviceSpec {
  const { timeout } = options
  const readOnly = server && ((options.readOnly ?? false) || !server.properties.write)
  const { backend, ...rest } = server
    ? toSpec({ ...options, readOnly }, toExternal(server.properties))
    : toSpec(options)
  return { backend, options: rest, timeout }
}
