import { UblkError } from '../errors.js'
import { MemoryLimit } from './memory-limit.js'

/** How often a server may end within this time, in milliseconds. */
const ATTEMPTS = 5
const WITHIN = 60_000

/** After this number of out-of-memory kills within this time, in milliseconds, the next server would be killed, too. */
const KILLS = 2
const KILLS_WITHIN = 10 * 60_000

/** What to do after a server has ended. */
export interface Advice {
  /** How it ended, in words. */
  readonly why: string
  /** How long to wait before the next one is started, in milliseconds. */
  readonly pause: number
  /** Whether the next one will find little memory, so that it comes up soon or never. */
  readonly short: boolean
  /** The reason not to start another one. */
  readonly hopeless?: UblkError
}

/** Counts the servers of one device that ended, or never came up, until another attempt is useless. */
export class RestartPolicy {
  readonly #id: number
  readonly #memory: MemoryLimit
  readonly #now: () => number
  #ends: number[] = []
  #kills: number[] = []
  #limit: number | undefined
  /** Whether memory was what the last one lacked. */
  #short = false

  constructor(
    id: number,
    memory: MemoryLimit = new MemoryLimit(),
    now: () => number = () => performance.now(),
  ) {
    this.#id = id
    this.#memory = memory
    this.#now = now
  }

  /**
   * Counts one more.
   *
   * @param how - How its process ended: a signal's name, or words.
   * @param cameUp - Whether it had served the device.
   */
  add(how: string, { cameUp }: { readonly cameUp: boolean }): Advice {
    const now = this.#now()
    const counted = this.#memory.hasKilled()
    // A server that makes no progress at the limit is killed by its supervisor, if not by the kernel.
    this.#short = how === 'SIGKILL' && (counted || (this.#short && !cameUp))
    this.#ends = [...this.#ends.filter(time => now - time < WITHIN), now]
    const why = this.#short ? `${how}, for want of memory: ${this.#memory.describe()}` : how
    const hopeless = (this.#short ? this.#lacksMemory(now) : undefined) ?? this.#endsTooOften()
    return {
      why,
      pause: 100 * 2 ** (this.#ends.length - 1),
      short: this.#short,
      ...(hopeless && { hopeless }),
    }
  }

  #lacksMemory(now: number): UblkError | undefined {
    const { limit } = this.#memory
    const before = limit === this.#limit ? this.#kills.filter(time => now - time < KILLS_WITHIN) : []
    this.#limit = limit
    this.#kills = [...before, now]
    if (this.#kills.length < KILLS) return undefined
    const id = this.#id
    return new UblkError(
      'limit',
      `device ${id} has no server: ${this.#kills.length} were killed for want of memory; ${this.#memory.describe()}`,
      {
        device: id,
        hint: 'raise the limit (MemoryMax= of a service, --memory of a container), and then {recover}; or delete it',
      },
    )
  }

  #endsTooOften(): UblkError | undefined {
    const recent = this.#ends.length
    if (recent <= ATTEMPTS) return undefined
    const id = this.#id
    return new UblkError('system', `device ${id} has no server: ${recent} died within a minute`, {
      device: id,
      hint: '{recover}, or delete it',
    })
  }
}
