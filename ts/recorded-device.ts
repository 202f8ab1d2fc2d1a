import type * as native from '#binding'
import type { PowercutBackend } from './backends/powercut.js'
import { nodesOf } from './backends/stack.js'
import {
  type CrashStatesOptions,
  type CutEvent,
  type CutOptions,
  checkCut,
  checkEvent,
  checkMark,
  checkStates,
} from './crash-options.js'
import { CrashState, stateOf } from './crash-state.js'
import { type CutPredicate, cutWhen, forgetPredicate } from './cut-when.js'
import { UblkDevice } from './device.js'
import { rethrow, UblkError, wrap, wrongType } from './errors.js'
import type { DeviceInfo } from './info.js'
import type { LocalDevice } from './local-device.js'
import type { StateDisks } from './state-disks.js'
import { nameOf } from './user-values.js'

/** What a {@link RecordedDevice} is given by the class that extends it. */
export interface Recorded {
  /** Reports a failure in the user's own code. */
  report: (message: string) => void
  /** Disks of states. */
  readonly disks: StateDisks
}

/** What only the process that serves a {@link powercut} disk can do with it. {@link ServedDevice} is this and more. */
export class RecordedDevice extends UblkDevice {
  readonly #local: LocalDevice
  readonly #recorded: Recorded

  /** @internal */
  protected constructor(info: DeviceInfo, local: LocalDevice, recorded: Recorded) {
    super(info)
    this.#local = local
    this.#recorded = recorded
  }

  /**
   * Gives the present moment of a {@link powercut} disk a name: for example, of what a program has promised just now. The states
   * after it have this mark.
   *
   * @throws UblkError of kind `unsupported` for another disk.
   *
   * @example
   * ```ts
   * disk.mark('paid 17')
   * ```
   */
  override mark(name: string): void {
    checkMark(name)
    try {
      this.#local.device.mark(name)
    } catch (error) {
      throw wrap(error)
    }
  }

  /**
   * Cuts the power of a {@link powercut} disk: requests fail with EIO until {@link restore}. What is left then is one of
   * the contents that a disk may have, which the seed and the moment determine; as long as anything can be lost, something is.
   * Unmount a file system before the disk is restored: the kernel would write what it has in memory.
   *
   * @throws UblkError of kind `unsupported` for another disk; `invalid` if the power was cut already.
   *
   * @example
   * ```ts
   * await disk.cut()
   * disk.restore()
   * ```
   */
  async cut(options: CutOptions = {}): Promise<void> {
    const { model, seed } = checkCut(options, this.#powercut().seed)
    await this.#local.device.cut(model, seed).catch(rethrow)
  }

  /**
   * Cuts the power of a {@link powercut} disk at an event, before anything that comes after it. Call {@link cut} then: it
   * chooses what is left. While the power is off, this is for an event after {@link restore}.
   *
   * A predicate is shown each write, discard, write-zeroes and flush that was answered from now on, in order. It runs on the
   * event loop, and the disk does not wait for it: the power is off from when it has returned true, and what was answered until
   * then came before the cut. While a synchronous call keeps the event loop busy, it is not called. If it throws an error, or
   * returns anything but true or false, it is dropped, and the device emits `error`.
   *
   * @throws UblkError of kind `unsupported` for another disk.
   *
   * @example
   * ```ts
   * disk.cutAt({ flush: 3 })
   * disk.cutAt(({ op, meta }) => op === 'write' && meta)
   * ```
   */
  cutAt(event: CutEvent | CutPredicate): void {
    const { device } = this.#local
    if (typeof event === 'function') {
      cutWhen(device, event, message => this.#recorded.report(message))
      return
    }
    checkEvent(event)
    try {
      device.cutAt(event.flush, event.write, event.mark)
    } catch (error) {
      throw wrap(error)
    }
    forgetPredicate(device)
  }

  /** Whether the power of a {@link powercut} disk is off. */
  get isPowerOff(): boolean {
    return this.#local.device.isPowerOff ?? false
  }

  /**
   * Switches the power of a {@link powercut} disk on after {@link cut}. What was recorded before is forgotten.
   *
   * @throws UblkError of kind `invalid` if {@link cut} was not called before; `unsupported` for another disk.
   *
   * @example
   * ```ts
   * await disk.cut()
   * disk.restore() // What can be read now is what the power cut has left, and new writes are recorded.
   * execFileSync('e2fsck', ['-fn', disk.path])
   * ```
   */
  restore(): void {
    try {
      this.#local.device.restore()
    } catch (error) {
      throw wrap(error)
    }
  }

  /**
   * The states in which a power cut may leave a {@link powercut} disk: at any moment, or at those between two marks. None comes
   * twice with the same content and marks.
   *
   * @throws UblkError of kind `unsupported` for another disk.
   *
   * @example
   * ```ts
   * for await (const state of disk.crashStates({ from: 'formatted', budget: 500 })) {
   *   await using crashed = await state.disk()
   *   execFileSync('e2fsck', ['-fn', crashed.path])
   * }
   * ```
   */
  async *crashStates(options: CrashStatesOptions = {}): AsyncGenerator<CrashState, void, undefined> {
    const states = this.#states(options)
    for (;;) {
      const found = await states.next().catch(rethrow)
      if (!found) return
      yield new CrashState(states, found, this.#recorded.disks)
    }
  }

  /**
   * One of the states of {@link crashStates} again, by its {@link CrashState.id | id}, with the same options.
   *
   * @throws UblkError of kind `not-found` if there is none with that id, or the id is of other writes, another seed or model;
   * `unsupported` for another disk.
   *
   * @example
   * ```ts
   * const state = await disk.crashState('105.7~1a2b3c4d')
   * ```
   */
  async crashState(id: string, options: CrashStatesOptions = {}): Promise<CrashState> {
    if (typeof id !== 'string') throw wrongType(`the id of a state must be text, not ${nameOf(id)}`)
    return await stateOf(id, this.#states(options), this.#recorded.disks, this.id)
  }

  #states(options: CrashStatesOptions): native.CrashStates {
    const { seed } = this.#powercut()
    try {
      return this.#local.device.crashStates(checkStates(options, seed))
    } catch (error) {
      throw wrap(error)
    }
  }

  #powercut(): PowercutBackend {
    const { backend } = this.#local
    const found = nodesOf(backend).find(({ kind }) => kind.name === 'powercut')
    if (found) return found.backend as PowercutBackend
    throw new UblkError('unsupported', 'the disk does not record what is written to it', {
      device: this.id,
      hint: 'make it of powercut()',
    })
  }
}
