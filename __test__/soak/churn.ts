/**
 * Devices that are made, used, killed, recovered, upgraded, resized and deleted in random order, several at a time, by
 * the command line. Whatever the order, every command ends, and in the end nothing is left.
 *
 *   node dist-test/soak/churn.js [--seconds 600] [--actors 4] [--seed N]
 *
 * The seed repeats what is done, though not how that meets in time. Ends with status 1 and the history of the device
 * with which something went wrong.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { Actor } from './actor.js'
import { ublk } from './command.js'
import { leftovers, memory } from './leftovers.js'
import { report } from './tally.js'
import { Broken } from './trouble.js'
import { Waits } from './waits.js'
import type { World } from './world.js'

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '600' },
    actors: { type: 'string', default: '4' },
    seed: { type: 'string', default: process.env['UBLK_TS_SEED'] ?? `${Date.now() % 2 ** 31}` },
  },
})
const [seconds, number, seed] = [Number(values.seconds), Number(values.actors), Number(values.seed)]

function say(text: string): void {
  process.stdout.write(`${text}\n`)
}

async function lookAround(dir: string): Promise<World> {
  const began = performance.now()
  const { stdout } = await ublk(['features', '--json'], { mark: 'first', bound: 300_000 })
  const start = performance.now() - began
  const rows = JSON.parse(stdout).features as { feature: string; have: boolean }[]
  const features = rows.filter(({ have }) => have).map(({ feature }) => feature)
  // Several at a time share the machine.
  const bound = Math.min(90_000 + start * 20 * number, 240_000)
  return { dir, features: new Set(features), start, bound, pause: Math.max(50, start / 10) }
}

/**
 * Who uses a disk waits for its next server, which on a slow machine takes longer than the kernel thinks is right. Whether
 * that was the reason is looked at here.
 */
function allowWaits({ bound }: World): void {
  if (['uml', 'qemu'].includes(process.env['UBLK_TS_VM'] ?? '')) {
    writeFileSync('/proc/sys/kernel/hung_task_timeout_secs', `${Math.round(bound / 2000)}`)
  }
}

const dir = mkdtempSync('/tmp/churn-')
const world = await lookAround(dir)
say(
  `UBLK_TS_SEED=${seed}; ${number} actors, ${seconds} s; commands take ${Math.round(world.start)} ms, and at most ${Math.round(world.bound / 1000)} s`,
)
allowWaits(world)
const waits = new Waits()
const before = memory()
const until = performance.now() + seconds * 1000
const stop = new AbortController()
const actors = Array.from({ length: number }, (_, at) => new Actor(at, seed, world))
const ended = await Promise.allSettled(
  actors.map(async actor => {
    try {
      while (performance.now() < until && !stop.signal.aborted) await actor.live()
    } catch (error) {
      if (!stop.signal.aborted) {
        say(`FAILED: ${actor.tell(error)}`)
        if (error instanceof Broken && error.where !== '') say(`where everybody was:\n${error.where}`)
      }
      stop.abort()
      throw error
    }
  }),
)
say(report())
const failed = ended.some(({ status }) => status === 'rejected')
const left = failed ? [] : await leftovers(world.bound)
for (const what of left) say(`LEFT: ${what}`)
const { long, unexplained } = await waits.end()
if (long.length > 0) say(`long waits:\n${long.map(wait => `  ${wait}`).join('\n')}`)
for (const what of unexplained) say(`FAILED: for no reason, ${what}`)
rmSync(dir, { recursive: true, force: true })
say(`memory before: ${before}\nmemory after:  ${memory()}`)
process.exit(failed || left.length > 0 || unexplained.length > 0 ? 1 : 0)
