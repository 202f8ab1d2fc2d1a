import { clearInterval, setImmediate, setInterval } from 'node:timers'
import * as native from '#binding'
import type { FaultPlan } from './backends/fault-rules.js'
import type { NativeBackend } from './backends/list.js'
import { planOf } from './disk-faults.js'
import { UblkError, wrap } from './errors.js'
import type { DeviceInfo } from './info.js'
import { traceOf } from './native-trace.js'
import { isDurable } from './runtime/backend-properties.js'
import type { DiskTraits, JsServer } from './runtime/js-server.js'
import type { NativeCallbacks } from './runtime/native-callbacks.js'
import type { TraceListener } from './trace.js'

/** How long requests may make no progress while their device is deleted by force, in milliseconds. */
const STALL = 2000

/** The same after some made no progress: longer than a Worker needs to react. */
const RESTALL = 700

function closed(id: number): UblkError {
  return new UblkError('closed', `device ${id} was deleted`, { device: id })
}

/** Follows the life of a device that this process serves; see {@link LocalDevice.follow}. */
export interface Follower {
  /** This process serves the device, or serves it again. */
  live(): Promise<void>
  /** The device waits for a server, since serving it failed; this process may yet serve it again. */
  waits(): void
  /** The device was deleted. */
  deleted(): void
  /** The device stays, for another server. */
  released(): void
  /** This process exits. */
  exiting(): void
  /**
   * From now on the disk is this one: a next server has to begin with it.
   *
   * @returns What takes that back.
   * @throws UblkError if it cannot be written down.
   */
  moved?(backend: NativeBackend, files: readonly native.FileOfDisk[]): () => void
  /**
   * These files are to be removed together with the device.
   *
   * @throws UblkError if it cannot be written down.
   */
  takes?(scratch: readonly string[]): void
}

/** A device that this process serves, shared by all handles to it. */
export class LocalDevice {
  /** Whether its disk survives the threads that serve it. */
  #recoverable = false
  /** Whether the kernel sends flushes. */
  #writeCache = false
  #forgotten: Promise<void> | undefined
  #keepAlive: NodeJS.Timeout | undefined
  readonly #traces = new Set<Promise<void>>()
  readonly #followers = new Set<Follower>()
  /** The rules of a disk with faults, as they were set last. */
  faultPlan: FaultPlan | undefined
  /** How this process stopped serving it. */
  #end: 'deleted' | 'released' | undefined
  #device: native.Device
  #backend: NativeBackend | undefined
  #passedOn = false

  /**
   * @param server - Serves it, unless native threads do.
   * @param backend - Its description, if it has one.
   * @param callbacks - The functions that the native device calls.
   * @param detach - Called when the device was deleted, after its last events: it drops references to the device.
   */
  constructor(
    device: native.Device,
    readonly server: JsServer | undefined,
    backend: NativeBackend | undefined,
    readonly callbacks: NativeCallbacks,
    private readonly detach: () => void,
  ) {
    this.#device = device
    this.#backend = backend
    callbacks.attach(device)
    this.faultPlan = planOf(backend)
  }

  /**
   * The native device.
   *
   * @throws UblkError of kind `closed` if it was passed on to somebody else.
   */
  get device(): native.Device {
    if (!this.#passedOn) return this.#device
    const { id } = this.#device
    throw closed(id)
  }

  /** Its description, if it has one. */
  get backend(): NativeBackend | undefined {
    return this.#backend
  }

  /** Whether its disk survives the threads that serve it. */
  get recoverable(): boolean {
    return this.#recoverable
  }

  /** Whether somebody gets every request. */
  get traced(): boolean {
    return this.#traces.size > 0
  }

  /** Whether this process does not serve it any more; its number may belong to another device. */
  get ended(): boolean {
    return this.#end !== undefined
  }

  /** Calls `follower` when this process ceases to serve the device; at once if it has. */
  follow(follower: Follower): void {
    if (this.#end === undefined) this.#followers.add(follower)
    else follower[this.#end]()
  }

  /** This process exits. */
  exiting(): void {
    for (const follower of this.#followers) follower.exiting()
  }

  /** Stores the driver's view of the device. */
  describe({ flags, writeCache }: DeviceInfo): void {
    this.#recoverable = flags.includes('USER_RECOVERY')
    this.#writeCache = writeCache
  }

  /** Makes the disk appear. */
  async start(cancel: native.Cancel, queues: number): Promise<void> {
    const { server } = this
    if (!server) return await this.device.start(cancel)
    await server.prepare(queues)
    await this.device.start(cancel, queues => server.serve(queues, this.#traits(server)))
  }

  /** Takes over the device with new threads, if it is recoverable and still has its disk. Returns whether it did. */
  async recover(queues: number): Promise<boolean> {
    if (!this.server || !this.#recoverable) return false
    // The kernel may not have noticed yet that it has no server: then it is still live.
    const { state } = await this.device.info()
    if (state === 'stopped') return false
    await this.takeOver(new native.Cancel(), queues)
    return true
  }

  /** Serves a device that waits for a server. */
  async takeOver(cancel: native.Cancel, queues: number): Promise<void> {
    const { server } = this
    if (!server) return await this.device.recover(cancel)
    await server.prepare(queues)
    await this.device.recover(cancel, queues => server.serve(queues, this.#traits(server)))
  }

  /** This process serves it, or serves it again. */
  async live(): Promise<void> {
    for (const follower of this.#followers) await follower.live()
  }

  /** Whether its disk waits for a server, although this process did not quiesce it. */
  async waits(): Promise<boolean> {
    const waits = await this.device.waits().catch(() => false) // It was deleted.
    if (waits) for (const follower of this.#followers) follower.waits()
    return waits
  }

  /**
   * Changes the disk's size in bytes.
   *
   * @param force - Whether to shrink it even if it is in use.
   */
  async resize(size: number, force: boolean, cancel: native.Cancel): Promise<void> {
    const before = (await this.device.info()).size
    // Keeps the disk from being mounted meanwhile.
    const claim = size < before && !force ? await native.claimToShrink(this.device.id, cancel) : undefined
    try {
      await this.#resize(before, size, cancel)
    } finally {
      claim?.release()
    }
  }

  /**
   * Throws away what was written since the last snapshot.
   *
   * @param force - Whether even if the disk is in use.
   */
  async reset(force: boolean, cancel: native.Cancel): Promise<void> {
    // Keeps the disk from being mounted meanwhile.
    const claim = force ? undefined : await native.claimToReset(this.device.id, cancel)
    try {
      await this.device.reset()
    } finally {
      claim?.release()
    }
  }

  /**
   * Moves the disk to another backend.
   *
   * @param scratch - Files that are made for it.
   * @throws UblkError; nothing has changed then.
   */
  async move(
    backend: NativeBackend,
    spec: native.DeviceSpec,
    rate: number | undefined,
    scratch: readonly string[],
    cancel: native.Cancel,
  ): Promise<void> {
    const { device } = this
    if (scratch.length > 0) for (const follower of this.#followers) follower.takes?.(scratch)
    const target = await device.beginMove(spec, rate, cancel)
    const undo: (() => void)[] = []
    try {
      if (this.#end !== undefined) throw closed(device.id)
      // Here the disk becomes another one: a next server begins with it.
      const files = device.targetFiles()
      for (const follower of this.#followers) {
        const back = follower.moved?.(backend, files)
        if (back) undo.push(back)
      }
      await device.finishMove(target)
    } catch (error) {
      try {
        for (const back of undo) back()
      } finally {
        await device.cancelMove().catch(() => {}) // Report the first failure.
      }
      throw wrap(error)
    }
    this.#device = target
    this.#backend = backend
    this.faultPlan = planOf(backend)
    this.callbacks.attach(target)
  }

  /** Its backend always has at least as many bytes as the disk. A failure leaves the old size. */
  async #resize(before: number, size: number, cancel: native.Cancel): Promise<void> {
    if (size > before) await this.server?.resize(size)
    try {
      await this.device.resize(size, cancel)
    } catch (error) {
      if (size > before) await this.server?.resize(before).catch(() => {}) // Report the first failure.
      throw error
    }
    if (size >= before) return
    try {
      await this.server?.resize(size)
    } catch (error) {
      await this.device.resize(before, cancel).catch(() => {}) // The backend still has its bytes.
      throw error
    }
  }

  /**
   * Deletes the device by force. The kernel waits for the requests in flight: if they make no progress, they are failed.
   */
  async byForce(end: () => Promise<void>): Promise<void> {
    let before = -1
    const look = (): void => {
      const { answered, inFlight } = this.#progress()
      if (inFlight > 0 && answered === before) {
        clearInterval(clock)
        clock = setInterval(abandon, RESTALL)
        abandon()
      }
      before = answered
    }
    // From then on all requests fail: the kernel may have many more, and waits for each.
    const abandon = (): void => {
      this.server?.abandon()
      this.device.failFetches()
    }
    let clock = setInterval(look, STALL)
    try {
      await end()
    } finally {
      clearInterval(clock)
    }
  }

  #progress(): { answered: number; inFlight: number } {
    let [answered, inFlight] = [0, 0]
    for (const { read, write, flush, discard, writeZeroes, inFlight: here } of this.device.stats()) {
      answered += read.ops + write.ops + flush.ops + discard.ops + writeZeroes.ops
      inFlight += here
    }
    return { answered, inFlight }
  }

  #traits(server: JsServer): DiskTraits {
    const durable = isDurable(server.properties, { writeCache: this.#writeCache })
    return { path: `/dev/ublkb${this.device.id}`, durable }
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

  /**
   * Called when the device was deleted or left to another server. Resolves when nothing of this one is left.
   *
   * @param passedOn - Somebody else has the native device: to this one it is deleted.
   */
  forget({ stays = false, passedOn = false }: { stays?: boolean; passedOn?: boolean } = {}): Promise<void> {
    this.#passedOn ||= passedOn
    this.#forgotten ??= this.#forget(stays)
    return this.#forgotten
  }

  /** Passes every request to a listener until the signal is aborted, or the device is deleted. */
  async trace(listener: TraceListener, signal: AbortSignal | undefined): Promise<void> {
    const traced = traceOf(this.device, listener, signal)
    this.#traces.add(traced)
    try {
      await traced
    } finally {
      this.#traces.delete(traced)
    }
  }

  async #forget(stays: boolean): Promise<void> {
    this.release()
    this.#end = stays ? 'released' : 'deleted'
    for (const follower of this.#followers) follower[this.#end]()
    await Promise.allSettled(this.#traces) // They end with the device, after all earlier requests.
    await this.server?.close()
    setImmediate(() => {
      this.callbacks.detach()
      this.detach()
    })
  }
}
