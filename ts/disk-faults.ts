import type * as native from '#binding'
import { checkPlan, nativeRules, rulesOf } from './backends/check-faults.js'
import type { ProfileName } from './backends/fault-profiles.js'
import type { FaultPlan, FaultRule } from './backends/fault-rules.js'
import type { FaultsBackend } from './backends/faults.js'
import type { NativeBackend } from './backends/list.js'
import { mapStack, nodesOf } from './backends/stack.js'
import { rethrow, UblkError } from './errors.js'
import { connect } from './remote/control-client.js'

/** A rule, and what it has done. Plain data, as JSON can carry it. */
export interface FaultCount {
  readonly rule: FaultRule
  /** Whether it is one of the profile's. */
  readonly ofProfile: boolean
  /** How many requests it considered since it was set. */
  readonly considered: number
  /** To how many of these it was applied. */
  readonly applied: number
}

/** The rules of a disk, and what they have done. Plain data, as JSON can carry it. */
export interface FaultReport {
  /** In their order. */
  readonly rules: readonly FaultCount[]
  readonly profile?: ProfileName
  readonly seed: number
  /** How many requests hang now. */
  readonly hanging: number
}

/** The device of this process, and what is known of its rules. */
export interface LocalFaults {
  readonly device: native.Device
  /** Those that were set last. */
  faultPlan: FaultPlan | undefined
}

/**
 * The rules of a disk that was created with {@link faults}, whoever serves it: {@link UblkDevice.faults}.
 *
 * @throws UblkError, each method: `unsupported` of a disk that was created without {@link faults}; `not-found` if another
 * process serves it and has no record.
 *
 * @example
 * ```ts
 * await disk.faults.set([{ op: 'read', probability: 0.01, errno: 'EIO' }])
 * const { rules } = await disk.faults.get()
 * console.log(`${rules[0]?.applied} reads failed`)
 * await disk.faults.clear()
 * ```
 */
export class DiskFaults {
  readonly #id: number
  readonly #local: LocalFaults | undefined

  /** @internal */
  constructor(id: number, local: LocalFaults | undefined) {
    this.#id = id
    this.#local = local
  }

  /**
   * Gives the disk these rules instead of all those that it has, while it is in use. They count from 0. Requests that hang or
   * are delayed go on as before: {@link thaw} them.
   *
   * @throws UblkError of kind `invalid` if a rule makes no sense; `unsupported` for a rule that corrupts, if the disk is served
   * without copies.
   *
   * @example
   * ```ts
   * await disk.faults.set([{ op: 'write', after: 100, errno: 'ENOSPC' }]) // A hundred writes, and the disk is full.
   * ```
   */
  async set(plan: readonly FaultRule[] | FaultPlan): Promise<void> {
    const checked = checkPlan(plan, 'set()')
    if (this.#local) {
      const { seed = 0 } = checked
      try {
        this.#local.device.setFaults(nativeRules(checked), seed)
      } catch (error) {
        rethrow(error)
      }
      this.#local.faultPlan = checked
      return
    }
    using server = await connect(this.#id)
    await server.setFaults(checked)
  }

  /**
   * Removes all rules. Requests that hang or are delayed go on as before: {@link thaw} them.
   *
   * @example
   * ```ts
   * await disk.faults.set([{ op: 'read', errno: 'EIO' }])
   * await disk.faults.clear()
   * await readFile(disk.path) // The whole disk, without an error.
   * ```
   */
  async clear(): Promise<void> {
    await this.set([])
  }

  /**
   * Lets all requests that hang or are delayed go on: the disk serves them. Resolves with their number.
   *
   * @example
   * ```ts
   * await disk.faults.set([{ op: 'read', nth: 1, hang: true }])
   * const content = readFile(disk.path)
   * while ((await disk.faults.get()).hanging === 0) await sleep(10)
   * console.log(`${await disk.faults.thaw()} requests hung`)
   * await content
   * ```
   */
  async thaw(): Promise<number> {
    if (this.#local) {
      try {
        return this.#local.device.thaw()
      } catch (error) {
        rethrow(error)
      }
    }
    using server = await connect(this.#id)
    return await server.thaw()
  }

  /**
   * The rules, and how often each was applied.
   *
   * @example
   * ```ts
   * const { rules, hanging } = await disk.faults.get()
   * for (const { rule, considered, applied } of rules) console.log(rule, `${applied} of ${considered}`)
   * console.log(`${hanging} requests hang`)
   * ```
   */
  async get(): Promise<FaultReport> {
    if (this.#local) return reportOf(this.#local, this.#id)
    using server = await connect(this.#id)
    return await server.faults()
  }
}

/** The plan that a backend describes. */
export function planOf(backend: unknown): FaultPlan | undefined {
  const found = nodesOf(backend).find(({ kind }) => kind.name === 'faults')
  if (!found) return undefined
  const { rules, profile, seed } = found.backend as FaultsBackend
  return { rules, profile, seed }
}

/** The rules that a backend describes, and those of its profile. */
export function rulesIn(backend: unknown): readonly FaultRule[] {
  return rulesOf(planOf(backend) ?? {})
}

/** The same backend without rules: they can be set later. */
export function withoutRules(backend: NativeBackend): NativeBackend {
  return mapStack(backend, (each, kind) =>
    kind.name === 'faults' ? { kind: 'faults', disk: (each as FaultsBackend).disk, rules: [] } : each,
  ) as NativeBackend
}

function reportOf({ device, faultPlan }: LocalFaults, id: number): FaultReport {
  const tallies = device.faults()
  if (!tallies || !faultPlan) {
    throw new UblkError('unsupported', 'this disk was created without rules for faults', {
      device: id,
      hint: 'create it with rules, even with none{faults}',
    })
  }
  const own = faultPlan.rules?.length ?? 0
  const rules = rulesOf(faultPlan).map((rule, at) => ({
    rule,
    ofProfile: at >= own,
    considered: tallies.rules[at]?.considered ?? 0,
    applied: tallies.rules[at]?.applied ?? 0,
  }))
  const { profile, seed = 0 } = faultPlan
  return { rules, ...(profile === undefined ? {} : { profile }), seed, hanging: tallies.hanging }
}
