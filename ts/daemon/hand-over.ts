import { setTimeout as sleep } from 'node:timers/promises'
import { UblkError, wrap } from '../errors.js'
import type { ServedDevice } from '../served-device.js'

/** How long the device may be without a server until this one takes it back, in milliseconds. */
const LONGEST = 15_000

/** How often that is tried. */
const PAUSE = 100

/** The old server's side of an upgrade: it quiesces its device, and takes it back unless the new server confirms. */
export class HandOver {
  readonly #disk: ServedDevice
  readonly #takenBack: () => Promise<void>
  #state: 'serving' | 'waiting' | 'returning' | 'released' = 'serving'
  #late: NodeJS.Timeout | undefined

  /** @param takenBack - Registers the device again, after this process has taken it back. */
  constructor(disk: ServedDevice, takenBack: () => Promise<void>) {
    this.#disk = disk
    this.#takenBack = takenBack
  }

  /** Quiesces the device, while `caller` is connected and not too slow. */
  async quiesce(caller: AbortSignal): Promise<void> {
    if (this.#state !== 'serving') throw this.#busy('is being handed over')
    this.#state = 'waiting'
    try {
      await this.#disk.quiesce()
    } catch (error) {
      this.#state = 'serving'
      throw error
    }
    const giveUp = (): void => void this.resume().catch(() => {})
    this.#late = setTimeout(giveUp, LONGEST)
    caller.addEventListener('abort', giveUp, { once: true })
    if (caller.aborted) giveUp()
  }

  /** Another process serves it. */
  async release(): Promise<void> {
    if (this.#state === 'released') return
    if (this.#state !== 'waiting') throw this.#busy('was not handed over')
    clearTimeout(this.#late)
    this.#state = 'released'
    await this.#disk.release()
  }

  /** Takes the device back, unless another process serves it after all, or that is not possible for too long. */
  async resume(): Promise<void> {
    if (this.#state !== 'waiting') return
    clearTimeout(this.#late)
    this.#state = 'returning'
    const until = performance.now() + LONGEST
    while (!(await this.#takeBack())) {
      if ((await this.#isElsewhere()) || performance.now() > until) {
        this.#state = 'waiting'
        return await this.release()
      }
      await sleep(PAUSE)
    }
    this.#state = 'serving'
  }

  /** Whether this process serves the device again, or the device was deleted. */
  async #takeBack(): Promise<boolean> {
    try {
      await this.#disk.resume()
      await this.#takenBack()
      return true
    } catch (error) {
      const gone = ['closed', 'not-found'].includes(wrap(error).kind)
      if (gone) await this.#disk.delete({ force: true })
      return gone
    }
  }

  async #isElsewhere(): Promise<boolean> {
    const info = await this.#disk.info().catch(() => undefined)
    return info?.state === 'live' && info.serverAlive && info.pid !== process.pid
  }

  #busy(what: string): UblkError {
    return new UblkError('busy', `device ${this.#disk.id} ${what}`, { device: this.#disk.id })
  }
}
