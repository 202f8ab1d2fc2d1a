import type { Life } from '../life.js'
import { anyUse, device, interruption, kill, type Move, moment, supervised, THERE, under } from './move.js'

const lasting = ({ looks }: Life): boolean => looks.recovery !== 'none'
const handedOver = ({ looks, world }: Life): boolean =>
  world.features.has('QUIESCE') && ['requeue', 'reissue'].includes(looks.recovery)

/** What is done to a device while it is served, but for its end. */
export const SERVING: readonly Move[] = [
  { name: 'use', in: ['served'], leaves: ['served'], weight: 12, do: life => life.check(anyUse(life)) },
  {
    name: 'look',
    in: ['served'],
    leaves: ['served'],
    weight: 3,
    async do(life) {
      await Promise.all([
        life.must(['list']),
        life.must(['show', device(life)]),
        life.mustNot(['recover', device(life)], /is served by process|was made without recovery/),
      ])
    },
  },
  { name: 'kill', in: ['served'], weight: 4, do: async life => kill(life) },
  { name: 'kill under load', in: ['served'], weight: 10, do: life => under(life, async () => kill(life)) },
  {
    name: 'kill the supervisor',
    in: ['served'],
    leaves: ['served'],
    weight: 2,
    fits: supervised,
    do: async life => life.signal(life.supervisor, 'SIGKILL'),
  },
  {
    name: 'kill supervisor and server',
    in: ['served'],
    weight: 2,
    fits: supervised,
    async do(life) {
      life.signal(life.supervisor, 'SIGKILL')
      kill(life)
    },
  },
  {
    name: 'hang up',
    in: ['served'],
    leaves: ['served'],
    weight: 1,
    async do(life) {
      for (const { pid } of life.servers()) life.signal(pid, 'SIGHUP')
      await life.check('whole')
    },
  },
  {
    name: 'upgrade',
    in: ['served'],
    leaves: ['served'],
    weight: 6,
    fits: handedOver,
    do: life => under(life, async () => void (await life.must(['upgrade', device(life)]))),
  },
  {
    name: 'upgrade in vain',
    in: ['served'],
    leaves: ['served'],
    weight: 1,
    fits: life => !handedOver(life),
    do: life =>
      under(life, () =>
        life.mustNot(['upgrade', device(life)], /cannot (hand|be handed|be taken)|without recovery/),
      ),
  },
  {
    name: 'upgrade twice at once',
    in: ['served'],
    leaves: ['served'],
    weight: 2,
    fits: handedOver,
    do: life =>
      under(life, async () => {
        const upgrade = ['upgrade', device(life)]
        await Promise.all([life.run(upgrade), life.run(upgrade)])
      }),
  },
  {
    name: 'upgrade, interrupted',
    in: ['served'],
    leaves: ['served'],
    weight: 3,
    fits: handedOver,
    do: life => under(life, async () => void (await life.run(['upgrade', device(life)], interruption(life)))),
  },
  {
    name: 'upgrade and kill',
    in: ['served'],
    leaves: THERE,
    weight: 3,
    fits: handedOver,
    do: life =>
      under(life, async () => {
        const upgrading = life.run(['upgrade', device(life)])
        await moment(life)
        kill(life)
        await upgrading
      }),
  },
  {
    name: 'kill, and recover under load',
    in: ['served'],
    leaves: THERE,
    weight: 5,
    fits: lasting,
    do: life =>
      under(life, async () => {
        kill(life)
        if (!supervised(life)) await life.run(['recover', device(life)])
      }),
  },
]
