import * as native from '#binding'
import type { CrashStateBackend } from './backends/crash-state.js'
import { overlay } from './backends/overlay.js'
import { wrap } from './errors.js'
import type { DeviceInfo } from './info.js'
import type { LocalDevice } from './local-device.js'
import { LocalDevices } from './local-devices.js'
import { toSpec } from './options/spec.js'

/** The most disks that are kept for further states. */
const MOST = 16

type Receive = (event: native.DeviceEvent) => void

/** A live disk of a state, which can become that of another one. */
export class StateDisk {
  #receive: Receive = () => {}

  private constructor(
    readonly view: native.StateView,
    /** The driver's view of it. */
    readonly info: DeviceInfo,
    /** The native object that its present user has. */
    public device: native.Device,
  ) {}

  /** Creates one with this content, and starts it. */
  static async create(state: native.FoundState): Promise<StateDisk> {
    LocalDevices.open() // If this process exits, it is deleted.
    const view = state.view()
    const backend: CrashStateBackend = { kind: 'crash-state', number: view.keep() }
    const cancel = new native.Cancel()
    let disk: StateDisk | undefined
    try {
      const { backend: described, ...options } = toSpec({ backend: overlay(backend) })
      const device = await native.Device.create({ backend: described, options }, cancel, event => {
        if (disk) disk.#receive(event)
      })
      try {
        await device.start(cancel)
        disk = new StateDisk(view, await device.info(), device)
        return disk
      } catch (error) {
        await device.delete(true, new native.Cancel()).catch(() => {}) // Report the first failure.
        throw error
      }
    } finally {
      native.forgetCrashState(backend.number)
    }
  }

  /** Gives it the content of another state. It is the same device in another object then. */
  async become(state: native.FoundState): Promise<void> {
    this.device = await this.device.turnInto(this.view, state, new native.Cancel())
  }

  /** From now on `receive` gets its events. */
  tell(receive: Receive): void {
    this.#receive = receive
  }

  /** Deletes it. Nobody awaits that: a driver that takes too long is asked again, and what stays is told in a warning. */
  async delete(): Promise<void> {
    this.tell(() => {})
    for (let left = 2; ; left--) {
      try {
        return await this.device.delete(true, new native.Cancel())
      } catch (error) {
        const { kind } = wrap(error)
        if (kind === 'not-found' || kind === 'closed') return // It is gone already.
        if (kind === 'timeout' && left > 0) continue
        process.emitWarning(wrap(error))
        return
      }
    }
  }
}

/**
 * The disks of the states of a recorded one. The kernel takes long to make a disk and to remove it: one that its user has deleted
 * is kept, empty of what was written to it, and becomes the next state.
 */
export class StateDisks {
  readonly #free: StateDisk[] = []
  #closed: Promise<unknown> | undefined

  /** A disk with the content of a state. */
  async take(state: native.FoundState): Promise<StateDisk> {
    for (;;) {
      const disk = this.#free.pop()
      if (!disk) return await StateDisk.create(state)
      disk.tell(() => {})
      try {
        await disk.become(state)
        return disk
      } catch {
        await disk.delete() // Somebody has begun to use it, or it has ended: another one is made.
      }
    }
  }

  /**
   * Keeps a disk for another state. It must not be in use.
   *
   * @param local - As its user knew it.
   * @returns Whether it could be kept; if not, it is as it was.
   */
  async give(disk: StateDisk, local: LocalDevice): Promise<boolean> {
    if (this.#closed || this.#free.length >= MOST || local.traced) return false
    const claim = await native.claimToReset(disk.info.id, new native.Cancel()).catch(() => undefined)
    if (!claim) return false
    try {
      await disk.device.reset()
    } catch {
      return false
    } finally {
      claim.release()
    }
    disk.tell(event => {
      const at = this.#free.indexOf(disk)
      if (event.type !== 'exit' || at < 0) return
      this.#free.splice(at, 1)
      void disk.delete()
    })
    if (this.#closed) return false
    this.#free.push(disk)
    return true
  }

  /** Deletes the disks that nobody has. Those that are in use are deleted by their users. */
  async close(): Promise<void> {
    this.#closed ??= Promise.all(this.#free.splice(0).map(disk => disk.delete()))
    await this.#closed
  }
}
