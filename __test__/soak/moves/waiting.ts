import { device, interruption, type Move, moment, THERE, under } from './move.js'

/** What is done to a device that has no server. */
export const WAITING: readonly Move[] = [
  {
    name: 'recover',
    in: ['waiting'],
    leaves: ['served'],
    weight: 10,
    do: async life => void (await life.must(['recover', device(life)])),
  },
  {
    name: 'recover under load',
    in: ['waiting'],
    leaves: ['served'],
    weight: 4,
    do: life =>
      under(life, async () => {
        life.disturbances.push('killed')
        await life.must(['recover', device(life)])
      }),
  },
  {
    name: 'recover twice at once',
    in: ['waiting'],
    leaves: ['served'],
    weight: 3,
    async do(life) {
      const recover = ['recover', device(life)]
      const both = await Promise.all([life.run(recover), life.run(recover)])
      life.expect(
        both.some(({ status }) => status === 0),
        'one of two recovers',
      )
    },
  },
  {
    name: 'recover, interrupted',
    in: ['waiting'],
    leaves: THERE,
    weight: 3,
    do: async life => void (await life.run(['recover', device(life)], interruption(life))),
  },
  {
    name: 'recover and kill',
    in: ['waiting'],
    leaves: THERE,
    weight: 3,
    async do(life) {
      const recovering = life.run(['recover', device(life)])
      await moment(life)
      for (const { pid } of life.servers()) life.signal(pid, 'SIGKILL')
      await recovering
    },
  },
  {
    name: 'recover and delete',
    in: ['waiting'],
    weight: 2,
    async do(life) {
      await Promise.all([life.run(['recover', device(life)]), life.run(['delete', device(life)])])
    },
  },
  {
    name: 'ask nobody',
    in: ['waiting', 'dead'],
    weight: 2,
    async do(life) {
      await life.mustNot(['upgrade', device(life)], /has no server|has no record/)
      await life.mustNot(['resize', device(life), '8M'], /nobody can be asked/)
      await life.must(['show', device(life)])
      if (life.stage === 'dead')
        await life.mustNot(['recover', device(life)], /without recovery|no disk|no record/)
    },
  },
]
