import { EventEmitter, once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import type { DeviceEvent } from '#binding'
import { abortable } from './abort.js'
import { UblkDevice } from './device.js'
import { rethrow, UblkError, wrap } from './errors.js'
import type { DeviceInfo } from './info.js'
import { checkWaiting } from './lifecycle-options.js'
import { callListeners } from './listeners.js'
import {
  checkPool,
  type DiskPoolOptions,
  type PoolDeviceOptions,
  type TakeOptions,
  taken,
} from './pool-options.js'
import type { ServedDevice } from './served-device.js'
import { SpareDisk } from './spare-disk.js'

/** How many spare disks are created at once. */
const AT_ONCE = 4

/**
 * How long no disk has to be taken before more are created while there are some, in milliseconds: both need the same processors
 * and threads.
 */
const QUIET = 50

/** How long the pool waits after a failure to create a disk, in milliseconds: at first, and at most. */
const [FIRST_PAUSE, LONGEST_PAUSE] = [100, 30_000]

/** The events of a {@link DiskPool}, with their arguments. */
export interface DiskPoolEvents {
  /** All spare disks are there. */
  filled: []
  /**
   * A spare disk cannot be created, or was lost. The pool tries again, less and less often, and `take` creates disks
   * meanwhile. Without a listener it becomes a process warning.
   */
  error: [error: UblkError]
}

/**
 * Keeps started disks that are usable some milliseconds after it is known what they are to be: {@link take} gives one of them
 * a backend and a size, and the pool creates another one in the background. A spare disk is a device whose disk is empty, so
 * that nothing can be read from it, or stay in a cache.
 *
 * Disks that were taken are independent of the pool. It does not keep Node running.
 *
 * Needs kernel 6.16; with an older one each disk is created when it is taken, and {@link lastError} says so.
 *
 * @example
 * ```ts
 * await using pool = new DiskPool({ base: file('base.img'), spare: 8, threads: 'shared' })
 * const disk = await pool.take({ upper: 'vm1.cow' })
 * console.log(disk.path) // /dev/ublkb0
 * ```
 */
export class DiskPool extends EventEmitter<DiskPoolEvents> implements AsyncDisposable {
  readonly #options: DiskPoolOptions
  readonly #device: PoolDeviceOptions
  readonly #spares: SpareDisk[] = []
  readonly #closing = new AbortController()
  #filling: Promise<void> | undefined
  /** No disk can ever be created in advance. */
  #useless = false
  #lastError: UblkError | undefined
  #taking = 0
  #lastTaken = Number.NEGATIVE_INFINITY
  /** Whether it has looked for what others have left. */
  #looked = false
  #closed: Promise<void> | undefined

  /**
   * Begins to create spare disks. Nothing has to be waited for: {@link take} creates a disk where there is none to spare.
   *
   * @throws UblkError of kind `invalid` for a wrong option.
   */
  constructor(options: DiskPoolOptions) {
    super()
    checkPool(options)
    this.#options = { ...options }
    const { spare: _, base: __, record: ___, ...device } = options
    this.#device = device
    this.#refill()
  }

  /** How many disks there are to spare. */
  get spares(): number {
    return this.#spares.length
  }

  /** Why a spare disk could not be created or was lost, if that was the last that happened to one. */
  get lastError(): UblkError | undefined {
    return this.#lastError
  }

  /**
   * Takes a disk: a spare one, or a new one if there is none. Resolves when its path is usable.
   *
   * The disks of a pool were started before their backends were known. So they have the properties of most files: blocks of
   * 512 bytes, a write cache, discards of 4 KiB and more, and, if that is possible, `copy: 'zero'`. A backend that they do not
   * fit is refused, and the hint names the option with which the pool has to be created.
   *
   * @throws UblkError as {@link UblkDevice.create}: among others `invalid` for a backend that does not fit the pool; `closed`
   * if the pool is.
   * @throws the signal's reason if it was aborted.
   */
  async take(options: TakeOptions = {}): Promise<ServedDevice> {
    const its = taken(this.#options, options)
    const { ServedDevice } = await servedDevice()
    for (;;) {
      if (this.#closing.signal.aborted) throw new UblkError('closed', 'the pool is closed')
      const spare = this.#spares.shift()
      this.#taking += 1
      try {
        return spare ? await ServedDevice.ofSpare(spare, its) : await UblkDevice.create(its)
      } catch (error) {
        if (!spare) throw error
        const closing = this.#closing.signal.aborted
        // Another process may have deleted or stopped it.
        const lost = !closing && wrap(error).kind === 'closed'
        if (spare.unbound && !closing && !lost && this.#missing > 0) this.#spares.unshift(spare)
        else await spare.delete().catch(() => {})
        if (!lost) throw error
      } finally {
        this.#taking -= 1
        this.#lastTaken = performance.now()
        this.#refill()
      }
    }
  }

  /**
   * Resolves when all spare disks are there.
   *
   * @throws UblkError that says why one cannot be created; the pool tries again nevertheless. `closed` if the pool is.
   * @throws the signal's reason if it was aborted.
   */
  async filled(options: { signal?: AbortSignal } = {}): Promise<void> {
    checkWaiting(options, 'filled()')
    const { signal } = options
    signal?.throwIfAborted()
    const closing = this.#closing.signal
    const closed = (): UblkError => new UblkError('closed', 'the pool is closed')
    if (closing.aborted) throw closed()
    if (this.#missing <= 0) return
    if (this.#lastError) throw this.#lastError
    const waiting = setInterval(() => {}, LONGEST_PAUSE) // It keeps Node running.
    try {
      await once(this, 'filled', { signal: AbortSignal.any(signal ? [closing, signal] : [closing]) })
    } catch (error) {
      signal?.throwIfAborted()
      throw closing.aborted ? closed() : error
    } finally {
      clearInterval(waiting)
    }
  }

  /** Deletes the spare disks. Those that were taken stay. Closing it again does nothing. */
  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #close(): Promise<void> {
    this.#closing.abort()
    await this.#filling
    const ends = await Promise.allSettled(this.#spares.splice(0).map(spare => spare.delete()))
    const failed = ends.find(end => end.status === 'rejected')
    if (failed) throw wrap(failed.reason)
  }

  get #missing(): number {
    return this.#options.spare - this.#spares.length
  }

  #refill(): void {
    if (this.#useless || this.#closing.signal.aborted || this.#missing <= 0) return
    this.#filling ??= this.#fill().finally(() => {
      this.#filling = undefined
    })
  }

  /** Creates what is missing. It never fails. */
  async #fill(): Promise<void> {
    const { signal } = this.#closing
    const rest = async (time: number): Promise<void> => {
      await sleep(time, undefined, { signal, ref: false }).catch(() => {})
    }
    await servedDevice().catch(() => {}) // So that the first one who takes a disk need not wait for it.
    await this.#removeLeftovers()
    let pause = FIRST_PAUSE
    while (this.#missing > 0 && !this.#useless && !signal.aborted) {
      const quiet = this.#taking > 0 ? 0 : performance.now() - this.#lastTaken
      if (this.#spares.length > 0 && quiet < QUIET) {
        await rest(QUIET - quiet)
        continue
      }
      if (await this.#createSome()) {
        pause = FIRST_PAUSE
      } else if (!this.#useless) {
        await rest(pause)
        pause = Math.min(pause * 2, LONGEST_PAUSE)
      }
    }
    if (this.#missing <= 0 && !signal.aborted) callListeners(this, 'filled', [])
  }

  /** Deletes the spare disks of processes that were killed: recoverable ones outlive them, and nobody can use them. */
  async #removeLeftovers(): Promise<void> {
    if (this.#looked) return
    this.#looked = true
    const devices = await UblkDevice.list().catch(() => []) // Creating a disk tells what is wrong.
    const isLeft = ({ size, state }: DeviceInfo): boolean =>
      size === 0 && (state === 'quiesced' || state === 'fail-io')
    const remove = async (id: number): Promise<void> => {
      const device = await UblkDevice.open(id)
      // Others may do the same, and the number may be another disk's by now.
      if (isLeft(await device.info())) await device.delete()
    }
    await Promise.allSettled(devices.filter(isLeft).map(({ id }) => remove(id)))
  }

  /** Whether all of them could be created. */
  async #createSome(): Promise<boolean> {
    const some = Array.from({ length: Math.min(this.#missing, AT_ONCE) }, () => this.#create())
    const failed = (await Promise.allSettled(some)).find(each => each.status === 'rejected')
    if (!failed) {
      this.#lastError = undefined
      return true
    }
    if (!this.#closing.signal.aborted) {
      const error = wrap(failed.reason)
      this.#useless = error.kind === 'unsupported' || error.kind === 'invalid'
      this.#failed(error)
    }
    return false
  }

  async #create(): Promise<void> {
    let [spare, ended]: [SpareDisk | undefined, boolean] = [undefined, false]
    const receive = (event: DeviceEvent): void => {
      ended ||= event.type === 'exit'
      this.#heard(spare, event)
    }
    spare = await abortable(this.#closing.signal, cancel => SpareDisk.create(this.#device, receive, cancel))
    if (ended) {
      await spare.delete().catch(() => {}) // It is gone already, or the driver keeps it.
      throw new UblkError('system', 'a spare disk ended as soon as it was started', { device: spare.id })
    }
    this.#spares.push(spare)
  }

  /** An event of a spare disk. */
  #heard(spare: SpareDisk | undefined, { type, message }: DeviceEvent): void {
    const at = spare === undefined ? -1 : this.#spares.indexOf(spare)
    if (at >= 0 && type === 'exit') {
      this.#spares.splice(at, 1)
      void spare?.delete().catch(() => {}) // It is gone already, or the driver keeps it.
      this.#refill()
    }
    this.#failed(new UblkError('system', message, { device: spare?.id }))
  }

  #failed(error: UblkError): void {
    const again = this.#lastError?.message === error.message
    this.#lastError = error
    if (!callListeners(this, 'error', [error]) && !again) process.emitWarning(error)
  }
}

async function servedDevice(): Promise<typeof import('./served-device.js')> {
  return await import('./served-device.js').catch(rethrow)
}
