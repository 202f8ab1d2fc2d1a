import { features } from 'ublk-ts'
import { BACKENDS, type BackendName, IN_ITS_PROCESS } from './matrix-backends.js'
import { kernelHas } from './modes.js'
import { randomNumbers } from './mortal.js'

/**
 * The dimensions of a disk and their values. A new backend, form or mode is one more value here, and a row in the table
 * of its requirements.
 */
export const DIMENSIONS = {
  transport: ['per-io', 'batch'],
  copy: ['copy', 'user', 'zero'],
  backend: Object.keys(BACKENDS) as BackendName[],
  form: ['in this process', 'shared threads', 'threads per queue', 'foreground', 'detached', 'supervised'],
  recovery: ['none', 'requeue', 'reissue', 'fail'],
} as const

/** One combination of the dimensions. */
export type Combination = { -readonly [D in keyof typeof DIMENSIONS]: (typeof DIMENSIONS)[D][number] }

/** What is done to the server or the disk. Afterwards the disk is deleted by force under load. */
export const TRIALS = ['hand-over', 'resize', 'kill'] as const
export type Trial = (typeof TRIALS)[number]

const supported = new Set((await features()).filter(({ supported }) => supported).map(({ name }) => name))

/** Whether it is served by the command line. */
export function throughCommands({ form }: Combination): boolean {
  return form === 'foreground' || form === 'detached' || form === 'supervised'
}

/** The reason why the command line cannot create it, if so. */
export function unsayable(combination: Combination): string | undefined {
  const { backend, form, recovery } = combination
  if (!throughCommands(combination)) return undefined
  if (backend === 'plain object') return `${backend} is for programs`
  if (form === 'supervised' && recovery === 'none') return undefined // that is refused
  const lasting = form !== 'foreground' || recovery !== 'none'
  if (backend === 'memory' && lasting) return 'its memory is in a file where it is to last'
  if (backend === 'memory in a file' && !lasting) return 'its memory is its own where it is not to last'
  return undefined
}

/** Every reason to refuse the combination; the error has one of them. */
export function refusals({ transport, copy, backend, form, recovery }: Combination): RegExp[] {
  const native = BACKENDS[backend].native
  const reasons: [boolean, RegExp][] = [
    [form === 'supervised' && recovery === 'none', /--auto-restart needs --recovery/],
    [form === 'shared threads' && !native, /cannot share native threads/],
    [
      form === 'threads per queue' && !native,
      /several threads for each queue are for disks with native threads/,
    ],
    [!kernelHas({ transport, copy: 'copy' }), /transport batch is not possible: this kernel lacks BATCH_IO/],
    [!BACKENDS[backend].copy.includes(copy), /copy (user|zero) is not possible: this disk's backend cannot/],
    [
      !kernelHas({ transport: 'per-io', copy }),
      /copy (user|zero) is not possible: this kernel lacks [A-Z_]+/,
    ],
    [
      form === 'threads per queue' && transport === 'per-io' && !supported.has('PER_IO_DAEMON'),
      /threads for each queue are not possible: this kernel lacks PER_IO_DAEMON/,
    ],
    [
      recovery === 'fail' && !supported.has('USER_RECOVERY_FAIL_IO'),
      /the driver cannot do what was asked for: USER_RECOVERY_FAIL_IO/,
    ],
  ]
  return reasons.filter(([applies]) => applies).map(([, why]) => why)
}

/** The reason why the disk cannot be handed over, if so: it is then served as before. */
export function noHandOver(combination: Combination): RegExp | undefined {
  const { backend, transport, recovery } = combination
  if (backend === IN_ITS_PROCESS && throughCommands(combination))
    return /its data in the memory of its server/
  if (recovery === 'none') return /cannot be handed over/
  if (recovery === 'fail') return /it fails requests while nobody serves it/
  if (!supported.has('QUIESCE')) return /this kernel cannot hand a device over/
  if (transport === 'batch' && recovery === 'requeue') return /with transport batch and recovery requeue/
  return undefined
}

/** The reason why it cannot be resized, if so. */
export function noResize({ backend }: Combination): RegExp | undefined {
  if (!supported.has('UPDATE_SIZE')) return /this kernel cannot resize a device/
  return BACKENDS[backend].resizes ? undefined : /cannot be resized|no other size|resize/
}

/** Whether it keeps its data after its server was killed. */
export function keepsItsBytes({ backend }: Combination): boolean {
  return backend !== 'null' && backend !== IN_ITS_PROCESS
}

/** All combinations. */
export function all(): Combination[] {
  let list: Record<string, string>[] = [{}]
  for (const [dimension, values] of Object.entries(DIMENSIONS)) {
    list = list.flatMap(combination => values.map(value => ({ ...combination, [dimension]: value })))
  }
  return list as unknown as Combination[]
}

/** Combinations, each with a trial, that cover every pair of values which occurs in `from`. */
export function pairwise(
  from: readonly Combination[],
  seed: number,
  trials: readonly Trial[] = TRIALS,
): [Combination, Trial][] {
  const random = randomNumbers(seed)
  const rows = from.flatMap(combination => trials.map(trial => [combination, trial] as [Combination, Trial]))
  for (let at = rows.length - 1; at > 0; at--) {
    const other = Math.floor(random() * (at + 1))
    const [one, two] = [rows[at], rows[other]]
    if (one && two) [rows[at], rows[other]] = [two, one]
  }
  const pairs = rows.map(pairsOf)
  const left = new Set(pairs.flat())
  const sample: [Combination, Trial][] = []
  while (left.size > 0) {
    let [best, most] = [-1, 0]
    for (const [at, of] of pairs.entries()) {
      const gain = of.reduce((sum, pair) => sum + Number(left.has(pair)), 0)
      if (gain > most) [best, most] = [at, gain]
    }
    const row = rows[best]
    if (!row) break
    sample.push(row)
    for (const pair of pairs[best] ?? []) left.delete(pair)
  }
  return sample
}

/** Every pair of values of a row. */
export function pairsOf([combination, trial]: [Combination, Trial]): string[] {
  const values = Object.entries({ ...combination, trial }).map(
    ([dimension, value]) => `${dimension}: ${value}`,
  )
  return values.flatMap((one, at) => values.slice(at + 1).map(other => `${one}, ${other}`))
}
