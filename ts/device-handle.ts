import { EventEmitter } from 'node:events'
import * as native from '#binding'
import { abortable } from './abort.js'
import { checkFlag, checkFunction, checkOptions } from './check.js'
import type { ServingChoice } from './choice.js'
import { DiskFaults } from './disk-faults.js'
import { rethrow } from './errors.js'
import type { UblkDeviceEvents } from './events.js'
import type {
  DeviceInfo,
  DiskRange,
  DiskTotals,
  LazyProgress,
  QueueStats,
  ServerConnection,
  StoredVolume,
} from './info.js'
import { checkRanges, progressOf } from './lazy-progress.js'
import { checkWaiting } from './lifecycle-options.js'
import type { LocalDevice } from './local-device.js'
import { connect } from './remote/control-client.js'
import { ofServer } from './remote/info-from-server.js'
import { nameOfDevice } from './remote/names.js'
import { readChoice } from './remote/record-file.js'
import { showAs } from './shown.js'
import { statsOf } from './stats.js'
import { totalsOf } from './totals.js'
import type { TraceListener } from './trace.js'

/** What a handle knows of its device, and reads of it. {@link UblkDevice} is this and more. */
export class DeviceHandle extends EventEmitter<UblkDeviceEvents> {
  readonly #local: LocalDevice | undefined
  #info: DeviceInfo

  static {
    showAs(DeviceHandle.prototype, disk => ({ local: disk.#local, state: disk.#info.state }))
  }

  /** @internal */
  protected constructor(info: DeviceInfo, local: LocalDevice | undefined) {
    super()
    this.#info = info
    this.#local = local
  }

  /** The number in the device's paths. */
  get id(): number {
    return this.#info.id
  }

  /** The disk, such as `/dev/ublkb0`. It exists while the device is live. */
  get path(): string {
    return this.#info.path
  }

  /**
   * The name of the disk, if it has one: `/dev/ublk/NAME` is a link to {@link path}. It is read from the device's record, or
   * from the links there.
   */
  get name(): string | undefined {
    return nameOfDevice(this.id)
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

  /** The maximum number of requests in flight on each queue. */
  get depth(): number {
    return this.#info.depth
  }

  /** Whether the disk refuses writes. */
  get readOnly(): boolean {
    return this.#info.readOnly
  }

  /** Whether this process serves the device. */
  get local(): boolean {
    return this.#local !== undefined
  }

  /**
   * The transport and copy mode of the device, and why they were chosen. For a device of another process this is read from
   * its record, and undefined without one. {@link info} returns transport and copy mode for any device.
   */
  get choice(): ServingChoice | undefined {
    return this.#local ? this.#local.device.choice : readChoice(this.id)
  }

  /**
   * Reads the device's state and limits from the kernel.
   *
   * @throws UblkError of kind `not-found` or `closed` if the device was deleted.
   */
  async info(): Promise<DeviceInfo> {
    this.#info = this.#local
      ? await this.#local.device.info().catch(rethrow)
      : await native.openDevice(this.id).catch(error => ofServer(this.id, error))
    return this.#info
  }

  /**
   * The disk's users, one phrase each, such as `mounted on /mnt`, `swap`, `used by dm-0` or `open by fio (12)`; empty
   * when it is free. Mounts of other namespaces and lazily unmounted file systems count. If the disk is in use in the
   * kernel and no user can be found, one phrase says so.
   *
   * @param options - `quick`: only users that are visible without opening the disk, which may wait for its server.
   */
  async users(options: { quick?: boolean } = {}): Promise<string[]> {
    checkOptions<{ quick?: boolean }>(options, 'users()', { quick: true })
    checkFlag(options.quick, 'quick')
    const { quick = false } = options
    return await (quick ? native.seenUsers(this.id) : native.users(this.id)).catch(rethrow)
  }

  /**
   * Counters and latencies of each queue since its server started. This only reads memory, so it can be called every second
   * for hundreds of devices. A {@link ServedDevice} returns the counters directly; a handle returns a promise.
   *
   * @throws UblkError of kind `not-found` if another process serves the device and has no record; `timeout` if it does
   *   not answer.
   */
  stats(): QueueStats[] | Promise<QueueStats[]> {
    return this.#stats()
  }

  async #stats(): Promise<QueueStats[]> {
    if (this.#local) return statsOf(this.#local.device)
    using server = await connect(this.id)
    return await server.stats()
  }

  /**
   * The counters of all queues in one, as one flat object of numbers. A {@link ServedDevice} returns it directly; a handle
   * returns a promise.
   *
   * @throws UblkError as {@link stats}.
   *
   * @example
   * ```ts
   * const disk = await UblkDevice.open(0)
   * const { reads, writes } = await disk.totals()
   * ```
   */
  totals(): DiskTotals | Promise<DiskTotals> {
    return this.#stats().then(totalsOf)
  }

  /**
   * How much of a lazy disk is there, whoever serves it; undefined of another disk. Of another process it is asked, as
   * with {@link stats}. Reading it disturbs no request.
   *
   * @throws UblkError of kind `not-found` if nobody can be asked; `timeout` if the server does not answer.
   */
  async lazyProgress(): Promise<LazyProgress | undefined> {
    if (this.#local) return progressOf(this.#local.device)
    using server = await connect(this.id)
    return (await server.lazyProgress()) ?? undefined
  }

  /**
   * How it stands with the NBD servers of a disk, whoever serves it: whether it is connected, how often that was lost, and what
   * the journal keeps. Undefined of a disk without such servers. Of another process it is asked, as with {@link stats}.
   *
   * @throws UblkError of kind `not-found` if nobody can be asked; `timeout` if the server does not answer.
   */
  async connection(): Promise<ServerConnection | undefined> {
    if (this.#local) return this.#local.device.connection() ?? undefined
    using server = await connect(this.id)
    return (await server.connection()) ?? undefined
  }

  /**
   * How it stands with the volume of a disk in an object store, whoever serves it: how much is not in the store yet, and what was
   * asked of it. Undefined of another disk. Of another process it is asked, as with {@link stats}.
   *
   * @throws UblkError of kind `not-found` if nobody can be asked; `timeout` if the server does not answer.
   */
  async volume(): Promise<StoredVolume | undefined> {
    if (this.#local) return this.#local.device.volume() ?? undefined
    using server = await connect(this.id)
    return (await server.volume()) ?? undefined
  }

  /**
   * Fetches what is missing of parts of a lazy disk, whoever serves it. Resolves when all of it is there; a bounded cache
   * may evict it again.
   *
   * @param ranges - By default, all of the disk.
   * @throws UblkError: `unsupported` for a disk that is not lazy, `invalid` for a range that is not on the disk, `backend`
   * if its source fails, `not-found` if nobody can be asked.
   */
  async prefetch(ranges?: readonly DiskRange[], options: { signal?: AbortSignal } = {}): Promise<void> {
    checkWaiting(options, 'prefetch()')
    const parts = checkRanges(ranges ?? [{ offset: 0, length: this.size }])
    const { signal } = options
    if (!this.#local) {
      using server = await connect(this.id)
      return await server.prefetch(parts, signal)
    }
    const { device } = this.#local
    await abortable(signal, async cancel => {
      for (const { offset, length } of parts) await device.prefetch(offset, length, cancel)
    })
  }

  /** The rules of a disk that was created with {@link faults}, whoever serves it: sets, counts and thaws. */
  get faults(): DiskFaults {
    return new DiskFaults(this.id, this.#local)
  }

  /**
   * Calls `listener` with every request from now on. Queues never wait for the listener: once it is some tens of thousands
   * of requests behind, further requests are dropped, and counted.
   *
   * Resolves after `signal` was aborted, or the device was deleted, and all earlier requests were passed on. If the
   * listener throws, tracing ends, and the promise rejects with that error. Until then it keeps Node running.
   *
   * @throws UblkError of kind `limit` if the device is already traced eight times, `closed` if it was deleted; `not-found`
   *   if another process serves it and has no record.
   *
   * @example
   * ```ts
   * await disk.trace(records => console.log(records), { signal: AbortSignal.timeout(1000) })
   * ```
   */
  async trace(listener: TraceListener, options: { signal?: AbortSignal } = {}): Promise<void> {
    checkFunction(listener, 'the listener')
    checkWaiting(options, 'trace()')
    if (this.#local) return await this.#local.trace(listener, options.signal)
    if (options.signal?.aborted) return
    using server = await connect(this.id)
    await server.trace(listener, options.signal)
  }
}
