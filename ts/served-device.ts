import * as native from '#binding'
import { abortable } from './abort.js'
import type { CrashStateBackend } from './backends/crash-state.js'
import { overlay } from './backends/overlay.js'
import { ofSize } from './backends/stack.js'
import { changedPart } from './changes.js'
import { tellOfDisk } from './diagnostics.js'
import { checkDiff } from './diff.js'
import { invalid, rethrow, UblkError, wrap, wrongType } from './errors.js'
import type { UblkDeviceEvents } from './events.js'
import { heatOf } from './heat.js'
import type { ChangedPart, DeviceInfo, DiskTotals, HeatPart, QueueStats } from './info.js'
import { refuseCrashes } from './kernels.js'
import { Launch } from './launch.js'
import { checkEnd, checkWaiting, type EndOptions, type RecoverOptions } from './lifecycle-options.js'
import type { LocalDevice } from './local-device.js'
import type { CreateOptions } from './options/device-options.js'
import { type Recorded, RecordedDevice } from './recorded-device.js'
import { readFiles } from './remote/record-file.js'
import { SharedMemory } from './shared-memory.js'
import type { SpareDisk } from './spare-disk.js'
import { StateDisks } from './state-disks.js'
import { statsOf } from './stats.js'
import { totalsOf } from './totals.js'
import { nameOf, settled } from './user-values.js'

/**
 * A device that this process serves. {@link UblkDevice.create} and {@link UblkDevice.recover} return it.
 *
 * It keeps Node running until it is stopped. A disk that native threads or Workers serve may be used from this process,
 * even with synchronous calls. If this event loop serves the disk (a plain object as backend, or a `lazy` disk while it
 * fetches), a synchronous call that waits for the disk never returns. It is best to use disks from other processes: a
 * process that uses its own disk cannot always be killed.
 */
export class ServedDevice extends RecordedDevice {
  readonly #local: LocalDevice
  /** Keeps the disk of a state for the next one, instead of its deletion. Whether it could. */
  #give: (() => Promise<boolean>) | undefined
  #given: Promise<boolean> | undefined
  readonly #stateDisks: StateDisks

  private constructor(info: DeviceInfo, local: LocalDevice) {
    const recorded: Recorded = { report: () => {}, disks: new StateDisks() }
    super(info, local, recorded)
    this.#local = local
    this.#stateDisks = recorded.disks
    recorded.report = message => this.#report(message)
  }

  static override async create(options: CreateOptions): Promise<ServedDevice> {
    refuseCrashes()
    return await Launch.run(options, async (launch, cancel) => {
      const server = await launch.load()
      const { entry, info } = await launch.enter(
        cancel,
        server,
        calls => native.Device.create(...calls),
        device => device.delete(true, new native.Cancel()),
        false,
      )
      const disk = ServedDevice.#launched(launch, entry, info)
      await launch.announce(disk)
      if (options.start ?? true) {
        await disk.#start(cancel)
        for (const path of options.share ?? []) await disk.#share(path, cancel)
      }
      launch.commit()
      return disk
    })
  }

  /** @internal Gives a spare disk of a pool what `options` say. */
  static async ofSpare(spare: SpareDisk, options: CreateOptions): Promise<ServedDevice> {
    return await Launch.run(options, async (launch, cancel) => {
      await launch.load()
      const { entry, info } = await launch.enter(
        cancel,
        undefined,
        ([spec, , onEvent, ...callbacks]) =>
          spare.bind(spec, onEvent, callbacks, launch.records ? undefined : cancel),
        device => device.delete(true, new native.Cancel()),
        false,
        async device => ({ ...spare.info, size: device.backendSize }),
      )
      const disk = ServedDevice.#launched(launch, entry, info)
      if (launch.records) {
        // As long as the disk is empty, nobody can lose what is on it.
        await launch.announce(disk)
        await entry.device.show(cancel).catch(rethrow)
      }
      await disk.#tellLive()
      launch.commit()
      return disk
    })
  }

  /** @internal A disk of a state after a power cut. */
  static async ofState(state: native.FoundState, disks: StateDisks): Promise<ServedDevice> {
    const backend: CrashStateBackend = { kind: 'crash-state', number: 0 } // The disk is there already: only a description.
    const options: CreateOptions = { backend: overlay(backend) }
    return await Launch.run(options, async launch => {
      const found = await disks.take(state)
      const { entry, info } = await launch.enter(
        new native.Cancel(),
        undefined,
        async ([, , onEvent]) => {
          found.tell(onEvent)
          return found.device
        },
        device => device.delete(true, new native.Cancel()),
        false,
        async () => found.info,
      )
      const disk = ServedDevice.#launched(launch, entry, info)
      disk.#give = async () => await disks.give(found, entry)
      await disk.#tellLive()
      launch.commit()
      return disk
    })
  }

  static override async recover(id: number, options: RecoverOptions): Promise<ServedDevice> {
    const found = await native.openDevice(id).catch(rethrow)
    const { size, queues, readOnly } = found
    const files = options.otherFile ? undefined : readFiles(id)
    const sized = { ...options, backend: ofSize(options.backend, size) }
    return await Launch.run(sized, async (launch, cancel) => {
      const server = await launch.load()
      if (server && !server.properties.write && !found.readOnly) {
        throw invalid(`disk ${id} is writable, and the backend cannot write`, 'give it a write method')
      }
      // It was resized after its backend was first created.
      if (server?.properties.resize && server.properties.size !== size) await server.resize(size)
      const { entry, info } = await launch.enter(
        cancel,
        server,
        async ([spec, ...calls]) => {
          await server?.prepare(queues)
          // Before the present server is asked to release the device; the files are checked again when they are opened.
          if (files) await native.checkFiles(spec.backend, files)
          await settled(options.onReady?.())
          // A read-only disk opens its file as such.
          return await native.Device.adopt(
            id,
            { ...spec, options: { ...spec.options, readOnly }, files },
            ...calls,
          )
        },
        device => device.leave(new native.Cancel()), // The device waits for the next server, as before.
        true,
      )
      const disk = ServedDevice.#launched(launch, entry, info)
      await disk.#takeOver(cancel)
      launch.commit()
      // Serving an existing disk without a record is better than not serving it.
      await launch.announce(disk, error => disk.#tell(error))
      return disk
    })
  }

  static #launched(launch: Launch, local: LocalDevice, info: DeviceInfo): ServedDevice {
    const disk = new ServedDevice(info, local)
    launch.attach({
      onEvent: event => disk.#onEvent(event),
      report: message => disk.#report(message),
    })
    return disk
  }

  /** Counters and latencies of each queue since this process created or took over the device. */
  override stats(): QueueStats[] {
    try {
      return statsOf(this.#local.device)
    } catch (error) {
      throw wrap(error)
    }
  }

  override totals(): DiskTotals {
    return totalsOf(this.stats())
  }

  /**
   * Starts serving a device that was created with `start: false`, or was stopped. Resolves when its path is usable.
   */
  async start(options: { signal?: AbortSignal } = {}): Promise<void> {
    checkWaiting(options, 'start()')
    await abortable(options.signal, cancel => this.#start(cancel))
  }

  /**
   * Stops serving a live device but keeps its disk: the block device stays, and new I/O blocks. No request fails. Then
   * another process can take the device over with {@link UblkDevice.recover}, or this one with {@link resume}.
   *
   * @throws UblkError of kind `unsupported` before kernel 6.16; or if the device was created without `recovery`, with
   * `'fail'`, or with `'requeue'` and `transport` `'batch'`, which together would make requests fail. The device is then
   * served as before. `closed` if it is not live.
   */
  async quiesce(options: { signal?: AbortSignal } = {}): Promise<void> {
    checkWaiting(options, 'quiesce()')
    const { device, callbacks } = this.#local
    await abortable(options.signal, cancel => device.quiesce(cancel))
    callbacks.end()
    this.#emit('quiesced')
  }

  /**
   * Serves a device again after {@link quiesce}.
   *
   * @throws UblkError of kind `busy` if another process serves it now.
   */
  async resume(options: { signal?: AbortSignal } = {}): Promise<void> {
    checkWaiting(options, 'resume()')
    await abortable(options.signal, cancel => this.#takeOver(cancel))
  }

  /**
   * Leaves a device to another process, without touching it. The device must be {@link quiesce}d, or wait for a server
   * because serving it failed. The backend is closed.
   *
   * @throws UblkError of kind `busy` if this process serves it; `closed` if it was deleted.
   */
  async release(): Promise<void> {
    await this.#local.device.release().catch(rethrow)
    await this.#local.forget({ stays: true })
    this.#emit('released')
  }

  /**
   * Shares a file in memory, such as one in `/dev/shm`, with the disk's clients. If they read or write the disk with
   * direct I/O (`O_DIRECT`) from a mapping of this file, the driver does not copy the data. The file's size is a multiple
   * of a page, at most 4 GiB; its pages stay in memory. The device must be live, and created with `share`. If the file is
   * truncated, requests in the missing part fail with EIO, and an `error` event reports it.
   *
   * Clients of a disk that is not in a file are served fastest from a memfd that is sealed against truncation: memfd_create(2)
   * with `MFD_ALLOW_SEALING`, then `F_ADD_SEALS` with `F_SEAL_SHRINK`. Its path is `/proc/PID/fd/N`.
   *
   * Waits until no request is in flight.
   *
   * @throws UblkError: `unsupported` if the device was created without `share`, `backend` if the file cannot be used,
   * `invalid` for one of another size, `closed` if the device is not live, `timeout`.
   */
  async share(path: string, options: { signal?: AbortSignal } = {}): Promise<SharedMemory> {
    checkWaiting(options, 'share()')
    if (typeof path !== 'string' || path === '') {
      throw wrongType(
        `the path of shared memory must be text, not ${nameOf(path)}`,
        "such as '/dev/shm/pool'",
      )
    }
    return await abortable(options.signal, cancel => this.#share(path, cancel))
  }

  async #share(path: string, cancel: native.Cancel): Promise<SharedMemory> {
    const { device } = this.#local
    return new SharedMemory(device, await device.share(path, cancel), path)
  }

  /** @internal For the control socket. */
  async changedPart(since: string, from: number): Promise<ChangedPart> {
    return await changedPart(this.#local.device, since, from).catch(rethrow)
  }

  /** @internal For the control socket. */
  async heat(tell: (part: HeatPart) => boolean, signal: AbortSignal): Promise<void> {
    await heatOf(this.#local.device, tell, signal)
  }

  /** @internal For the control socket: `wishes` come from another process. */
  async writeDiff(wishes: { [name: string]: unknown }, signal: AbortSignal): Promise<void> {
    const { socket, out, ...others } = wishes
    // A stream goes to the client's socket.
    const checked = checkDiff({ ...others, out })
    await abortable(signal, cancel =>
      this.#local.device.diff({ ...checked, socket: socket === true }, cancel),
    )
  }

  override async delete(options: EndOptions = {}): Promise<void> {
    checkEnd(options, 'delete()')
    if (!this.#local.ended) this.#given ??= this.#give?.()
    if (!(await this.#given)) {
      this.#given = undefined
      await super.delete(options)
      return await this.#stateDisks.close()
    }
    if (!this.#local.ended) this.#emit('deleted')
    await this.#local.forget({ passedOn: true })
  }

  /** Deletes the device, even if the disk is in use: unmount it first. */
  override async [Symbol.asyncDispose](): Promise<void> {
    await this.delete({ force: true })
  }

  async #start(cancel: native.Cancel): Promise<void> {
    await this.#local.start(cancel, this.queues)
    await this.#becameLive()
  }

  async #takeOver(cancel: native.Cancel): Promise<void> {
    await this.#local.takeOver(cancel, this.queues)
    await this.#becameLive()
  }

  async #becameLive(): Promise<void> {
    await this.info()
    await this.#tellLive()
  }

  async #tellLive(): Promise<void> {
    this.#local.hold()
    await this.#local.live()
    this.#emit('live')
  }

  /** Called when the device's queues have ended: JavaScript serves it again if possible. */
  async #onExit(reason: string): Promise<void> {
    const local = this.#local
    try {
      if (await local.recover(this.queues)) {
        this.#emit('recovered', { reason })
        return
      }
    } catch (error) {
      const failure = wrap(error)
      if (failure.kind !== 'not-found') this.#tell(failure) // Else it was deleted as well.
    }
    local.callbacks.end()
    local.release()
    this.#emit('exit', { reason, waits: await local.waits() })
  }

  #onEvent(event: native.DeviceEvent): void {
    if (event.type === 'exit') {
      void this.#onExit(event.message)
      return
    }
    if (event.type === 'fenced') this.#emit('fenced', { reason: event.message })
    this.#tell(new UblkError('system', event.message, { device: this.id }))
  }

  #report(message: string): void {
    this.#tell(new UblkError('backend', message, { device: this.id }))
  }

  #tell(error: UblkError): void {
    if (!this.#emit('error', error)) process.emitWarning(error)
  }

  /** Emits an event; exceptions of listeners are caught. Returns whether there are any listeners. */
  #emit<Name extends keyof UblkDeviceEvents>(event: Name, ...args: UblkDeviceEvents[Name]): boolean {
    return tellOfDisk(this, event, args)
  }
}
