import { EventEmitter } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import * as native from '#binding'
import { abortable } from './abort.js'
import { ofSize } from './backends/stack.js'
import { checkFunction, checkId } from './check.js'
import type { ServingChoice } from './choice.js'
import { connect } from './daemon/control-client.js'
import { endRemoteDevice } from './daemon/end-remote-device.js'
import { identityOf } from './daemon/identity.js'
import { devicesOfServers, ofServer } from './daemon/info-from-server.js'
import { readChoice, readFiles, removeStale } from './daemon/record-file.js'
import { invalid, UblkError, wrap } from './errors.js'
import type { UblkDeviceEvents } from './events.js'
import type { DeviceInfo, QueueStats } from './info.js'
import { Launch, rethrow } from './launch.js'
import {
  type CreateOptions,
  checkCreate,
  checkEnd,
  checkRecover,
  checkResize,
  checkWaiting,
  type EndOptions,
  type RecoverOptions,
  type ResizeOptions,
} from './lifecycle-options.js'
import { callListeners } from './listeners.js'
import { type LocalDevice, served } from './local-device.js'
import { paths } from './options.js'
import { RemovalProgress } from './removal-progress.js'
import { SharedMemory } from './shared-memory.js'
import { parseSize, type Size } from './size.js'
import { statsOf } from './stats.js'
import type { TraceListener } from './trace.js'
import { nameOf, settled } from './user-values.js'

/** How often a disk that is held is looked at, in milliseconds. */
const POLL = 250

/**
 * One ublk device: served by this process if made by {@link UblkDevice.create}, by any if found by
 * {@link UblkDevice.open}.
 *
 * A served device keeps Node running until it is stopped. A disk that native threads or Workers serve may be used from
 * this process, even with synchronous calls. A disk that this event loop serves (a plain object as backend, or a `lazy`
 * one while it fetches) must not: a synchronous call that waits for it never returns. It is best to use disks from
 * other processes: a process that uses its own disk cannot always be killed.
 *
 * @example
 * ```ts
 * const disk = await UblkDevice.create({ backend: memory('16M') })
 * console.log(disk.path) // /dev/ublkb0
 * await disk.delete()
 * ```
 */
export class UblkDevice extends EventEmitter<UblkDeviceEvents> implements AsyncDisposable {
  readonly #owned: boolean
  readonly #served: LocalDevice | undefined
  #info: DeviceInfo

  private constructor(info: DeviceInfo, owned: boolean) {
    super()
    this.#info = info
    this.#served = served.get(info.id)
    this.#owned = owned
  }

  /**
   * Makes a disk and serves it from native threads of this process. Resolves when its path is usable.
   *
   * @throws UblkError: `invalid` for a wrong option, or one that cannot be recorded, `backend` if the file cannot be used,
   * `busy` if another process uses it, `exists` if the id is taken, `limit`, `no-driver`, `no-permission`,
   * `no-io-uring`, `unsupported`, `timeout`.
   * @throws the signal's reason if it was aborted.
   */
  static async create(options: CreateOptions): Promise<UblkDevice> {
    checkCreate(options)
    return await Launch.run(options, async (launch, cancel) => {
      const server = await launch.load()
      const { entry, info } = await launch.enter(
        cancel,
        server,
        calls => native.Device.create(...calls),
        device => device.delete(true, new native.Cancel()),
        false,
      )
      const disk = UblkDevice.#launched(launch, info)
      await launch.announce(disk)
      if (options.start ?? true) {
        await disk.#start(entry, cancel)
        for (const path of paths(options) ?? []) await disk.#share(path, cancel)
      }
      launch.commit()
      return disk
    })
  }

  /**
   * Takes over a device that was made with `recovery` and that nobody serves: its server was killed, or has quiesced
   * it. The disk was there all the time, and its users go on. Waits for a server that is just leaving.
   *
   * @param options - With a backend that holds the disk's bytes.
   * @throws UblkError: `busy` if it is served, or another process uses its file, `backend` if it was created from
   *   another file, `unsupported` if it was made without `recovery`, `invalid` if the backend does not fit it,
   *   `not-found` if there is no such device, or it has no disk; and as {@link UblkDevice.create}. The device is then
   *   as it was.
   */
  static async recover(id: number, options: RecoverOptions): Promise<UblkDevice> {
    checkId(id)
    checkRecover(options)
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
          return await native.Device.adopt(id, { ...spec, readOnly, files }, ...calls)
        },
        device => device.leave(new native.Cancel()), // It waits for the next server, as before.
        true,
      )
      const disk = UblkDevice.#launched(launch, info)
      await disk.#takeOver(entry, cancel)
      launch.commit()
      // An existing disk is better served without a record than not at all.
      await launch.announce(disk, error => disk.#tell(error))
      return disk
    })
  }

  static #launched(launch: Launch, info: DeviceInfo): UblkDevice {
    const disk = new UblkDevice(info, true)
    launch.attach({
      onEvent: event => disk.#onEvent(event),
      report: message => disk.#report(message),
    })
    return disk
  }

  /**
   * A handle to an existing device, whoever serves it. It tells about the device, stops and deletes it;
   * disposing of the handle does nothing.
   *
   * @throws UblkError of kind `not-found` if there is no such device.
   */
  static async open(id: number): Promise<UblkDevice> {
    checkId(id)
    const info = await native.openDevice(id).catch(error => ofServer(id, error))
    return new UblkDevice(info, false)
  }

  /** All ublk devices of this machine that the caller may see, by id. */
  static async list(): Promise<DeviceInfo[]> {
    return await native.listDevices().catch(devicesOfServers)
  }

  /** The number in the device's paths. */
  get id(): number {
    return this.#info.id
  }

  /** The disk, such as `/dev/ublkb0`. It exists while the device is live. */
  get path(): string {
    return this.#info.path
  }

  /** The size of the disk in bytes. */
  get size(): number {
    return this.#info.size
  }

  /** The logical block size in bytes. */
  get blockSize(): number {
    return this.#info.blockSize
  }

  /** The number of hardware queues that the kernel granted. */
  get queues(): number {
    return this.#info.queues
  }

  /** The number of requests that each queue holds at a time. */
  get depth(): number {
    return this.#info.depth
  }

  /** Whether the disk refuses writes. */
  get readOnly(): boolean {
    return this.#info.readOnly
  }

  /** Whether this process serves the device. */
  get local(): boolean {
    return this.#served !== undefined
  }

  /**
   * In which of the driver's ways the device is served, and why. If another process serves it, or did, from its record;
   * undefined if it has none, or one of an earlier version. The ways alone are in {@link info}, for any device.
   */
  get choice(): ServingChoice | undefined {
    return this.#served ? this.#served.device.choice : readChoice(this.id)
  }

  /**
   * Asks the kernel about the device.
   *
   * @throws UblkError of kind `not-found` or `closed` if it is gone.
   */
  async info(): Promise<DeviceInfo> {
    this.#info = this.#served
      ? await this.#served.device.info().catch(rethrow)
      : await native.openDevice(this.id).catch(error => ofServer(this.id, error))
    return this.#info
  }

  /**
   * The disk's users, one phrase each, such as `mounted on /mnt`, `swap`, `used by dm-0` or `open by fio (12)`; empty
   * when it is free. Mounts of other namespaces and lazily unmounted file systems count. If the kernel has the disk in
   * use and no user can be found, one phrase says so.
   *
   * @param options - `quick`: only users that are visible without opening the disk, which may wait for its server.
   */
  async users({ quick = false }: { quick?: boolean } = {}): Promise<string[]> {
    return await (quick ? native.seenUsers(this.id) : native.users(this.id)).catch(rethrow)
  }

  /**
   * Counters and latencies of each queue since the device was made. Cheap: it reads memory, and can be asked every
   * second for hundreds of devices.
   *
   * @throws UblkError of kind `unsupported` if another process serves the device.
   */
  stats(): QueueStats[] {
    try {
      return statsOf(this.#local('count').device)
    } catch (error) {
      throw wrap(error)
    }
  }

  /**
   * The same of a device that any process serves: of another one it is asked, which takes a record of the device
   * (`CreateOptions.record`).
   *
   * @throws UblkError of kind `not-found` if nobody can be asked; `timeout` if the server does not answer.
   */
  async readStats(): Promise<QueueStats[]> {
    if (this.#served) return this.stats()
    using server = await connect(this.id)
    return await server.stats()
  }

  /**
   * Tells `listener` of every request from now on, whatever serves it. A queue never waits for that: of some tens of
   * thousands of requests that the listener has not taken yet, further ones are lost, and counted.
   *
   * Resolves when `signal` has ended it, or the device was deleted, and all that came until then was told; rejects with
   * what the listener throws, which ends it too. Until then it keeps Node running.
   *
   * @throws UblkError of kind `unsupported` if another process serves the device, `limit` if it is traced eight times,
   * `closed` if it was deleted.
   *
   * @example
   * ```ts
   * await disk.trace(records => console.log(records), { signal: AbortSignal.timeout(1000) })
   * ```
   */
  async trace(listener: TraceListener, options: { signal?: AbortSignal } = {}): Promise<void> {
    checkFunction(listener, 'the listener')
    checkWaiting(options, 'trace()')
    await this.#local('trace').trace(listener, options.signal)
  }

  /**
   * Starts to serve a device that was created with `start: false`, or stopped. Resolves when its path
   * is usable.
   *
   * @throws UblkError of kind `unsupported` if another process serves it.
   */
  async start(options: { signal?: AbortSignal } = {}): Promise<void> {
    checkWaiting(options, 'start()')
    const entry = this.#local('start')
    await abortable(options.signal, cancel => this.#start(entry, cancel))
  }

  /**
   * Lets go of a live device, so that another process can take it over with {@link UblkDevice.recover}, or this one
   * with {@link resume}: the disk stays, and what is asked of it waits. No request fails.
   *
   * @throws UblkError of kind `unsupported` before kernel 6.16, if it was made without `recovery`, with `'fail'`, or with
   * `'requeue'` and `transport` `'batch'`, which together would make requests fail: the device is then served as before;
   * `closed` if it is not live.
   */
  async quiesce(options: { signal?: AbortSignal } = {}): Promise<void> {
    checkWaiting(options, 'quiesce()')
    const { device, callbacks } = this.#local('quiesce')
    await abortable(options.signal, cancel => device.quiesce(cancel))
    callbacks.end()
    this.#emit('quiesced')
  }

  /**
   * Serves a device again after {@link quiesce}.
   *
   * @throws UblkError of kind `busy` if another process serves it by now.
   */
  async resume(options: { signal?: AbortSignal } = {}): Promise<void> {
    checkWaiting(options, 'resume()')
    const entry = this.#local('resume')
    await abortable(options.signal, cancel => this.#takeOver(entry, cancel))
  }

  /**
   * Forgets a device that was {@link quiesce}d, or that waits for a server since serving it failed, without touching it:
   * another process serves it, or will. The backend is closed.
   *
   * @throws UblkError of kind `busy` if this process serves it; `closed` if it was deleted.
   */
  async release(): Promise<void> {
    const entry = this.#local('release')
    await entry.device.release().catch(rethrow)
    await entry.forget({ stays: true })
    this.#emit('released')
  }

  /**
   * Changes the disk's size while it is used. Added space reads as zeroes, except on a block device, which keeps the
   * data that it has there; data behind a new, lower end is lost. A file is resized, too; a disk written in JavaScript
   * needs a method `resize`.
   *
   * @param size - Bytes, or text such as `'2G'`; a multiple of the block size.
   * @throws UblkError of kind `unsupported` before kernel 6.16, if the backend cannot, or if another process serves it;
   * `invalid` for a size that is not possible; `busy` if a disk that is to shrink is held, unless `force` is given.
   */
  async resize(size: Size, options: ResizeOptions = {}): Promise<void> {
    const bytes = parseSize(size)
    checkResize(options)
    const entry = this.#local('resize')
    await abortable(options.signal, async cancel => {
      // Keeps the disk from being mounted meanwhile.
      const shrinks = bytes < this.size && !options.force
      const claim = shrinks ? await native.claimToShrink(this.id, cancel) : undefined
      try {
        await entry.resize(bytes, cancel)
      } finally {
        claim?.release()
        await this.info().catch(() => {})
      }
    })
  }

  /**
   * Removes the disk and ends its serving. A device of this process can be started again; a memory disk
   * keeps its contents until then.
   *
   * @throws UblkError of kind `busy` if the disk is held, unless `force` or `wait` is given.
   */
  async stop(options: EndOptions = {}): Promise<void> {
    checkEnd(options, 'stop()')
    await this.#end('stop', options)
    this.#emit('stopped')
  }

  /**
   * Stops the device if needed and removes it. Deleting it again does nothing.
   *
   * @throws UblkError of kind `busy` if the disk is held, unless `force` or `wait` is given; `not-found`
   * if another process's device is already gone.
   */
  async delete(options: EndOptions = {}): Promise<void> {
    checkEnd(options, 'delete()')
    if (this.#served?.deleted) return await this.#served.forget()
    const identity = identityOf(this.id)
    const byServer = await this.#end('delete', options)
    this.#emit('deleted')
    if (this.#served) await this.#served.forget()
    else if (!byServer) removeStale(this.id, identity)
  }

  /**
   * Shares a file in memory, such as one in `/dev/shm`, with the disk's clients: what they read and write directly
   * (`O_DIRECT`) from and to a mapping of it is not copied by the driver. The file's size is a multiple of a page, at
   * most 4 GiB; its pages stay in memory. The device must be live, served by this process, and created with `share`. If
   * the file is truncated, requests in the missing part fail with EIO, and an `error` event says so.
   *
   * Waits until no request is under way.
   *
   * @throws UblkError: `unsupported` if the device was made without `share`, `backend` if the file cannot be used,
   * `invalid` for one of another size, `closed` if the device is not live, `timeout`.
   */
  async share(path: string, options: { signal?: AbortSignal } = {}): Promise<SharedMemory> {
    checkWaiting(options, 'share()')
    if (typeof path !== 'string' || path === '') {
      throw invalid(`the path of shared memory must be text, not ${nameOf(path)}`, "such as '/dev/shm/pool'")
    }
    return await abortable(options.signal, cancel => this.#share(path, cancel))
  }

  async #share(path: string, cancel: native.Cancel): Promise<SharedMemory> {
    const { device } = this.#local('share memory with the clients of')
    return new SharedMemory(device, await device.share(path, cancel), path)
  }

  /**
   * Deletes the device if this object created it, even if the disk is held: unmount it first. A handle
   * from {@link UblkDevice.open} is only dropped.
   */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#owned) await this.delete({ force: true })
  }

  async #start(entry: LocalDevice, cancel: native.Cancel): Promise<void> {
    await entry.start(cancel, this.queues)
    await this.#went(entry)
  }

  async #takeOver(entry: LocalDevice, cancel: native.Cancel): Promise<void> {
    await entry.takeOver(cancel, this.queues)
    await this.#went(entry)
  }

  /** It became live. */
  async #went(entry: LocalDevice): Promise<void> {
    this.#info = await entry.device.info()
    entry.hold()
    await entry.registration?.occupy()
    this.#emit('live')
  }

  /** Returns whether the server, in another process, did it. */
  async #end(what: 'stop' | 'delete', options: EndOptions): Promise<boolean> {
    const { force = false, wait = false, signal, onProgress = () => {} } = options
    using progress = new RemovalProgress(this.id, this.path, onProgress)
    const say = (line: string): void => progress.say(line)
    const served = this.#served
    const done = await abortable(signal, async cancel => {
      const end = async (): Promise<boolean> => {
        if (!served) return await endRemoteDevice(this.id, { what, force, say }, cancel)
        const here = (): Promise<void> => served.device[what](force, cancel)
        await (force ? served.byForce(here) : here())
        return false
      }
      for (;;) {
        try {
          return await end()
        } catch (error) {
          const failure = wrap(error)
          if (!wait || failure.kind !== 'busy') throw failure
          say(failure.message)
        }
        await sleep(POLL, undefined, { signal }).catch(() => signal?.throwIfAborted())
      }
    })
    served?.callbacks.end()
    served?.release()
    return done
  }

  #local(verb: string): LocalDevice {
    if (this.#served) return this.#served
    throw new UblkError('unsupported', `cannot ${verb} device ${this.id} from here`, {
      device: this.id,
      hint: `it is served by another process (pid ${this.#info.pid})`,
    })
  }

  /** The device's queues have ended: JavaScript serves it again if it can. */
  async #onExit(reason: string): Promise<void> {
    const entry = this.#served
    try {
      if (entry && (await entry.recover(this.queues))) {
        this.#emit('recovered', { reason })
        return
      }
    } catch (error) {
      const failure = wrap(error)
      if (failure.kind !== 'not-found') this.#tell(failure) // Else it was deleted as well.
    }
    entry?.callbacks.end()
    entry?.release()
    const waits = (await entry?.waits()) ?? false
    this.#emit('exit', { reason, waits })
  }

  #onEvent(event: native.DeviceEvent): void {
    if (event.type === 'exit') {
      void this.#onExit(event.message)
      return
    }
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
    return callListeners(this, event, args)
  }
}
