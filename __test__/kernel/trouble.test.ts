/**
 * Servers that are stopped, killed or slow at random moments, under load: every command then ends within its time
 * limit, and nothing is left. UBLK_TS_ROUNDS sets the number of rounds, UBLK_TS_SEED replays them.
 */
import { once } from 'node:events'
import { readdirSync, rmSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import test from 'ava'
import { Chance } from '../soak/chance.js'
import { leftovers } from '../soak/leftovers.js'
import { stacks } from '../soak/trouble.js'
import { Detached, leaveNoServerBehind, RUN_DIR } from '../support/detached.js'
import { canFail } from '../support/modes.js'
import { type Result, run, sh, shell } from '../support/program.js'
import { SLOWNESS } from '../support/server.js'

leaveNoServerBehind(test)

const ROUNDS = Number(process.env['UBLK_TS_ROUNDS'] ?? 2)
const SEED = Number(process.env['UBLK_TS_SEED'] ?? Date.now() % 2 ** 31)
/** Multiplies the time limits, such as for an emulated machine. */
const PATIENCE = Number(process.env['UBLK_TS_PATIENCE'] ?? SLOWNESS)

const FILE = '/tmp/trouble'
const FLAG = '/tmp/trouble-slow'
const SLOW = fileURLToPath(new URL('../backends/slow.js', import.meta.url))

/** Seconds that a command may take. */
const BOUNDS = { list: 10, show: 10, stats: 10, recover: 30, create: 30, delete: 40 }

const BACKENDS = [
  () => `--file ${FILE}`,
  () => '--mem 16M',
  () => '--null 16M',
  (delay: number) =>
    `--worker ${SLOW} --worker-options ${JSON.stringify({ size: 2 ** 24, flag: FLAG, delay })}`,
] as const

const RECOVERIES = [
  '',
  '',
  ' --recovery reissue',
  ' --recovery requeue',
  ...(canFail ? [' --recovery fail'] : []),
]

const LOADS = [
  'while :; do dd if=/dev/zero of="$1" bs=4k count=500 oflag=direct conv=notrunc,nocreat status=none || exit 0; done',
  'while :; do dd if=/dev/zero of="$1" bs=64k count=200 conv=notrunc,nocreat status=none || exit 0; done',
  'while :; do dd if="$1" of=/dev/null bs=16k count=500 iflag=direct status=none || exit 0; done',
  'exec sleep 1000',
]

/** The longest time of each command, in seconds. */
const longest: Record<string, number> = {}

async function bounded(command: keyof typeof BOUNDS, ...words: string[]): Promise<Result> {
  const limit = BOUNDS[command] * PATIENCE * 1000
  const began = performance.now()
  const late = sleep(limit, 'late' as const, { ref: false })
  const ended = await Promise.race([run(command, ...words), late])
  if (ended === 'late')
    throw new Error(`${command} ${words.join(' ')} took more than ${limit / 1000} s\n${stacks()}`)
  longest[command] = Math.max(longest[command] ?? 0, (performance.now() - began) / 1000)
  return ended
}

/** One disk with one kind of trouble. Returns what went wrong. */
async function round(chance: Chance): Promise<string[]> {
  const backend = chance.of(BACKENDS)
  const recovery = chance.of(RECOVERIES)
  const lasting = backend === BACKENDS[2] ? '' : recovery
  const trouble = chance.of(['SIGSTOP', 'SIGSTOP', 'SIGKILL', 'slow'] as const)
  const words = `${backend(chance.of([500, 5000, 10 ** 6]))}${lasting} --depth ${chance.of([1, 16, 128])}`
  const load = chance.of(LOADS)
  const story = `${words}; ${load.slice(0, 50)}; ${trouble}`
  const wrong: string[] = []
  const expect = (what: string, { status, stderr }: Result, wanted: readonly number[] = [0]): void => {
    if (!wanted.includes(status ?? -1)) wrong.push(`${what}: status ${status}: ${stderr} (${story})`)
  }
  const disk = await Detached.create(words)
  const { id, pid } = disk
  const client = shell(load, disk.path)
  const left = once(client, 'close')
  await sleep(chance.below(400))
  if (trouble === 'slow') writeFileSync(FLAG, '')
  else process.kill(pid, trouble)
  await sleep(chance.below(100))
  expect('list', await bounded('list', '-o', '+USERS'))
  expect('show', await bounded('show', `${id}`), [0, 1]) // It may have ended already, with its file system.
  expect('stats', await bounded('stats'))
  if (lasting !== '' && trouble === 'SIGKILL' && chance.often(0.7)) {
    expect('recover', await bounded('recover', `${id}`))
  }
  const other = await bounded('create', '--detach', '--mem', '16M')
  expect('create', other)
  if (chance.often(0.5)) expect('delete of the troubled', await bounded('delete', `${id}`), [0, 1])
  const gone = (await bounded('list', '-n', '-o', 'id')).stdout
    .split('\n')
    .every(line => line.trim() !== `${id}`)
  expect('delete --force', await bounded('delete', '--force', `${id}`), gone ? [0, 1] : [0])
  client.kill('SIGKILL')
  await left
  expect('delete of another', await bounded('delete', '--force', other.stdout.trim()))
  rmSync(FLAG, { force: true })
  for (const name of readdirSync(RUN_DIR)) if (/^\d+\.log/.test(name)) rmSync(`${RUN_DIR}/${name}`)
  for (const what of await leftovers(40_000 * PATIENCE)) wrong.push(`left: ${what} (${story})`)
  return wrong
}

test('whatever happens to a server, commands end within their bounds and nothing is left', async t => {
  t.timeout(60_000 + ROUNDS * 120_000 * PATIENCE)
  t.log(`UBLK_TS_SEED=${SEED}`)
  const chance = new Chance(SEED)
  await sh('truncate -s 16M "$1"', FILE)
  for (let at = 0; at < ROUNDS; at++) t.deepEqual(await round(chance), [], `round ${at} of seed ${SEED}`)
  rmSync(FILE)
  const told = Object.entries(longest).map(([command, seconds]) => `${command} ${seconds.toFixed(1)} s`)
  t.log(`${ROUNDS} rounds; the longest: ${told.join(', ')}`)
})
