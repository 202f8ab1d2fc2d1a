import { setTimeout as sleep } from 'node:timers/promises'
import type { Use } from '../client.js'
import type { Interruption } from '../command.js'
import type { Life, Stage } from '../life.js'

/** Something that is done to a device; what comes of it is looked at afterwards. */
export interface Move {
  readonly name: string
  /** In which stages of its life. */
  readonly in: readonly Stage[]
  /** How often, compared with the others. */
  readonly weight: number
  /** Whether this device is one for it. */
  fits?(life: Life): boolean
  do(life: Life): Promise<void>
  /** In which of the stages it may be afterwards, if not in any. */
  readonly leaves?: readonly Stage[]
}

/** The device is still there, with its disk. */
export const THERE: readonly Stage[] = ['served', 'waiting']

export const device = ({ id }: Life): string => `${id}`

export const supervised = (life: Life): boolean => life.supervisor !== undefined

/** Another device may have its number as soon as it is gone. */
export const ownNumber = ({ looks }: Life): boolean => looks.id !== undefined

/** A moment at which a command is at something. */
export async function moment({ chance, world }: Life): Promise<void> {
  await sleep(chance.below(world.start * 2))
}

/** A signal to a command, at such a moment. */
export function interruption({ chance, world }: Life): Interruption {
  return {
    name: chance.of(['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGKILL'] as const),
    after: chance.below(world.start * 2),
  }
}

/** Kills the server. */
export function kill(life: Life): void {
  life.disturbances.push('killed')
  life.signal(life.server, 'SIGKILL')
}

export function anyUse({ looks, chance }: Life): Use {
  return looks.storage === 'null' ? 'whole' : chance.of(['chunks', 'chunks', 'whole', 'deep', 'files'])
}

/** Has the disk used while something is done. */
export async function under(life: Life, action: () => Promise<void>): Promise<void> {
  life.use(anyUse(life))
  await moment(life)
  await action()
}
