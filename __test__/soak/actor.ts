import { Chance } from './chance.js'
import { Life, type Looks, type Recovery } from './life.js'
import { ENDING, MOVES, type Move } from './moves/index.js'
import { count } from './tally.js'
import { Broken } from './trouble.js'
import type { World } from './world.js'

/** The last number that a device can have. */
const LAST = 2 ** 20 - 1

/** Lets devices live, one after the other. */
export class Actor {
  readonly #number: number
  readonly #chance: Chance
  readonly #world: World
  #lives = 0
  #life: Life | undefined

  constructor(number: number, seed: number, world: World) {
    this.#number = number
    this.#chance = new Chance(seed * 1000 + number)
    this.#world = world
  }

  /** One device, from the beginning to the end. */
  async live(): Promise<void> {
    const chance = this.#chance
    const life = new Life(`${this.#number}-${this.#lives++}`, this.#looks(), this.#world, chance)
    this.#life = life
    life.prepare(chance.below(25, 4) * 2 ** 20)
    await this.#step(life, MOVES)
    for (let left = chance.below(12, 2); left > 0 && life.stage !== 'gone'; left--) {
      await this.#step(
        life,
        MOVES.filter(move => move.in.includes(life.stage)),
      )
    }
    for (let tries = 0; tries < 3 && life.stage !== 'gone'; tries++) {
      await this.#step(life, ENDING)
    }
    if (life.stage !== 'gone') {
      await life.must(['delete', `${life.id}`])
      await life.settle()
    }
    life.expect(life.stage === 'gone', 'it is gone')
    await life.end()
  }

  async #step(life: Life, choices: readonly Move[]): Promise<void> {
    const step = this.#choose(
      choices.filter(move => move.in.includes(life.stage) && (move.fits?.(life) ?? true)),
    )
    life.note(`— ${step.name}`)
    count(step.name)
    await step.do(life)
    // Who uses a disk waits while nobody serves that: it may have to be served or deleted before it is left.
    if (!life.ending) await this.#look(life, step)
    if (life.client && life.stage === 'waiting') await this.#free(life)
    await life.leave()
    if (life.ending) await this.#look(life, step)
    else await life.settle()
  }

  async #look(life: Life, { name, leaves }: Move): Promise<void> {
    await life.settle()
    life.expect(leaves?.includes(life.stage) ?? true, `${life.stage} after ${name}`)
  }

  /** Has those who wait for a device go on, or fail. */
  async #free(life: Life): Promise<void> {
    if (this.#chance.often(0.8)) {
      await life.must(['recover', `${life.id}`])
    } else {
      life.disturbances.push('ended')
      await life.must(['delete', '--force', `${life.id}`])
    }
    await life.settle()
  }

  #choose(choices: readonly Move[]): Move {
    let at = this.#chance.number() * choices.reduce((sum, { weight }) => sum + weight, 0)
    for (const choice of choices) {
      at -= choice.weight
      if (at < 0) return choice
    }
    return choices[0] as Move
  }

  #looks(): Looks {
    const chance = this.#chance
    const { features } = this.#world
    const recoveries: Recovery[] = ['none', 'requeue', 'reissue', 'reissue']
    if (features.has('USER_RECOVERY_FAIL_IO')) recoveries.push('fail')
    const recovery = chance.of(recoveries)
    const storage = chance.of(['mem', 'mem', 'file', 'worker', 'worker', 'null'] as const)
    const own = this.#number
    return {
      id: chance.of([undefined, 100 + own, 4095 + own, 65_535 - own, LAST - own]),
      storage,
      recovery,
      queues: chance.below(3, 1),
      threads: storage === 'worker' ? 'own' : chance.of(['own', 'shared']),
      autoRestart: recovery !== 'none' && chance.often(0.4),
    }
  }

  /** What went wrong, and all that came before it. */
  tell(error: unknown): string {
    const what =
      error instanceof Broken ? error.message : error instanceof Error ? error.stack : String(error)
    const life = this.#life
    return `${what}\nthe history of device ${life?.id} (${life?.mark}):\n${life?.history.join('\n')}`
  }
}
