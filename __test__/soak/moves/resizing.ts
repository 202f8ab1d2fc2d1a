import type { Life } from '../life.js'
import { device, interruption, kill, type Move, moment, under } from './move.js'

const MIB = 2 ** 20

const resizable = ({ world }: Life): boolean => world.features.has('UPDATE_SIZE')

function anySize({ chance }: Life): number {
  return chance.below(25, 4) * MIB
}

/** Other sizes. */
export const RESIZING: readonly Move[] = [
  {
    name: 'resize',
    in: ['served'],
    leaves: ['served'],
    weight: 5,
    fits: resizable,
    async do(life) {
      const size = anySize(life)
      await life.must(['resize', device(life), `${size}`])
      life.sized(size)
      await life.check('whole')
    },
  },
  {
    name: 'grow under load',
    in: ['served'],
    leaves: ['served'],
    weight: 4,
    fits: resizable,
    do: life =>
      under(life, async () => {
        life.disturbances.push('resized') // Whoever reads all of it may find that it has become longer.
        await life.must(['resize', device(life), `${life.size + MIB}`])
        life.tear(life.size)
      }),
  },
  {
    name: 'resize in vain',
    in: ['served'],
    leaves: ['served'],
    weight: 1,
    fits: life => !resizable(life),
    do: life => life.mustNot(['resize', device(life), `${anySize(life)}`], /cannot resize/),
  },
  {
    name: 'resize, interrupted or together',
    in: ['served'],
    leaves: ['served'],
    weight: 3,
    fits: resizable,
    async do(life) {
      const [one, other] = [anySize(life), anySize(life)]
      await Promise.all([
        life.run(['resize', device(life), `${one}`]),
        life.run(['resize', device(life), `${other}`], interruption(life)),
      ])
      life.tear(Math.min(one, other))
    },
  },
  {
    name: 'resize and kill',
    in: ['served'],
    weight: 3,
    fits: resizable,
    async do(life) {
      const size = anySize(life)
      const resizing = life.run(['resize', device(life), `${size}`])
      await moment(life)
      kill(life)
      await resizing
      life.tear(Math.min(size, life.size))
    },
  },
]
