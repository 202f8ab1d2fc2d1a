import { setTimeout as sleep } from 'node:timers/promises'
import type { Result } from '../../support/program.js'
import type { Life } from '../life.js'
import { Broken } from '../trouble.js'
import { interruption, type Move, ownNumber } from './move.js'

function made(life: Life, { stdout }: Result): void {
  life.id = Number(/\d+$/.exec(stdout.trim())?.[0] ?? -1)
}

/** Ways in which a device is made. */
export const BIRTHS: readonly Move[] = [
  {
    name: 'create',
    in: ['gone'],
    leaves: ['served'],
    weight: 12,
    do: async life => made(life, await life.must(life.words)),
  },
  {
    name: 'create, interrupted',
    in: ['gone'],
    weight: 3,
    async do(life) {
      const { name, after } = interruption(life)
      const ended = await life.run(life.words, { name, after: after * 2 }) // Two programs start.
      if (ended.status === 0) made(life, ended)
    },
  },
  {
    name: 'create twice at once',
    in: ['gone'],
    leaves: ['served'],
    weight: 1,
    fits: ownNumber,
    async do(life) {
      const both = await Promise.all([life.run(life.words), life.run(life.words)])
      const [one, ...more] = both.filter(({ status }) => status === 0)
      if (!one || more.length > 0)
        throw new Broken(`${1 + more.length} of two made a device of the same number`)
      made(life, one)
    },
  },
  {
    name: 'create, and delete meanwhile',
    in: ['gone'],
    weight: 2,
    fits: ownNumber,
    async do(life) {
      const making = life.run(life.words)
      await sleep(life.chance.below(life.world.start * 3))
      await life.run(['delete', '--force', `${life.looks.id}`])
      const ended = await making
      if (ended.status === 0) made(life, ended)
    },
  },
  {
    name: 'create, and kill its server meanwhile',
    in: ['gone'],
    weight: 2,
    async do(life) {
      const making = life.run(life.words)
      await sleep(life.chance.below(life.world.start * 3))
      for (const { pid } of life.servers()) life.signal(pid, 'SIGKILL')
      const ended = await making
      if (ended.status === 0) made(life, ended)
    },
  },
]
