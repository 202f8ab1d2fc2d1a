import { setTimeout as sleep } from 'node:timers/promises'
import type { Life } from '../life.js'
import { device, interruption, kill, type Move, moment, ownNumber, under } from './move.js'

/** Lets the disk go by what these do, at the same time. */
async function end(life: Life, ...commands: string[][]): Promise<void> {
  life.disturbances.push('ended')
  await Promise.all(commands.map(words => life.run([...words, device(life)])))
}

/** Ways to end a device. */
export const ENDING: readonly Move[] = [
  {
    name: 'terminate',
    in: ['served'],
    leaves: ['gone'],
    weight: 2,
    async do(life) {
      const pid = life.chance.often(0.5) ? life.supervisor : life.server
      life.ending = true
      life.signal(pid ?? life.server, life.chance.of(['SIGTERM', 'SIGINT']))
    },
  },
  {
    name: 'terminate under load',
    in: ['served'],
    leaves: ['gone'],
    weight: 2,
    do: life =>
      under(life, async () => {
        life.disturbances.push('ended')
        const twice = life.chance.often(0.5)
        life.ending = true
        life.signal(life.server, 'SIGTERM')
        if (!twice) return
        await sleep(400)
        life.signal(life.server, 'SIGTERM')
      }),
  },
  {
    name: 'delete under load',
    in: ['served', 'waiting'],
    weight: 3,
    do: life => under(life, () => end(life, ['delete', ...life.chance.of([['--force'], []])])),
  },
  {
    name: 'delete twice at once',
    in: ['served', 'waiting', 'dead'],
    weight: 2,
    fits: ownNumber,
    do: life => end(life, ['delete'], life.chance.of([['delete'], ['stop'], ['delete', '--force']])),
  },
  {
    name: 'delete, interrupted',
    in: ['served', 'waiting', 'dead'],
    weight: 2,
    async do(life) {
      await life.run([life.chance.of(['delete', 'stop']), device(life)], interruption(life))
    },
  },
  {
    name: 'delete and kill',
    in: ['served'],
    weight: 2,
    fits: ownNumber,
    async do(life) {
      const ending = end(life, [life.chance.of(['delete', 'stop'])])
      await moment(life)
      kill(life)
      await ending
    },
  },
  {
    name: 'stop',
    in: ['served', 'waiting'],
    weight: 1,
    do: async life => void (await life.must(['stop', device(life)])),
  },
  {
    name: 'delete',
    in: ['dead'],
    leaves: ['gone'],
    weight: 4,
    do: async life => void (await life.must(['delete', device(life)])),
  },
]
