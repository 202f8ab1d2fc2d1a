// processors: 2
/**
 * Every kind of disk, created and served in every mode, with what is promised for each: no request fails while it is
 * handed over, grown and shrunk; after its server is killed, requests end as its recovery mode says; and it is deleted
 * by force under load, with no process left hanging. Impossible combinations are refused with the reason, and nothing
 * is left behind.
 *
 * The combinations are generated (support/matrix.ts). A sample is run in which every two values occur together, drawn from
 * UBLK_TS_SEED; UBLK_TS_MATRIX=all runs all, with every trial, and takes about an hour:
 * vm/run --cpus 2 --timeout 7200 npx ava dist-test/kernel/matrix.test.js. UBLK_TS_MATRIX=2/4 runs the second of four parts.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import test, { type ExecutionContext } from 'ava'
import { UblkDevice } from 'ublk-ts'
import { leaveNoServerBehind } from '../support/detached.js'
import {
  all,
  type Combination,
  keepsItsBytes,
  noHandOver,
  noResize,
  pairsOf,
  pairwise,
  refusals,
  TRIALS,
  type Trial,
  throughCommands,
  unsayable,
} from '../support/matrix.js'
import { SIZE } from '../support/matrix-backends.js'
import { NbdServer } from '../support/nbd-server.js'
import { result, sh, shell } from '../support/program.js'
import { writeImage } from '../support/qcow2-image.js'
import { SLOWNESS, until } from '../support/server.js'
import { type Job, sideBySide } from '../support/side-by-side.js'
import { makeSubject, Program, type Subject } from '../support/subject.js'

leaveNoServerBehind(test)

const SEED = Number(process.env['UBLK_TS_SEED'] ?? Date.now() % 2 ** 31)
const WHICH = process.env['UBLK_TS_MATRIX'] ?? 'sample'
const DEPTH = 32

/** The longest that a step may take, in milliseconds. */
const PATIENCE = 40_000 * SLOWNESS

/** Writes and reads the disk repeatedly, until it is told to stop, or that the disk is being removed. */
const LOAD = `
cd "$2"
while [ ! -e stop ]; do
  if ! timeout -s KILL ${60 * SLOWNESS} fio --name=x --filename="$1" --direct=1 --ioengine=libaio --iodepth=${DEPTH} --bs=4k --size=512k --allow_file_create=0 \
    --randrepeat=0 $3 --output-format=json --output=out >said 2>&1; then
    [ ! -e going ] || exit 0
    cat said out >&2
    exit 1
  fi
  jq '.jobs[0].total_err // 0' out >>errors
done
`

const everything = all()
const sayable = everything.filter(combination => unsayable(combination) === undefined)
const possible = sayable.filter(combination => refusals(combination).length === 0)
const impossible = sayable.filter(combination => refusals(combination).length > 0)
const counted = { done: 0, refused: 0 }
const plan = planned()

function planned(): { lives: [Combination, readonly Trial[]][]; refused: Combination[] } {
  if (WHICH === 'sample') {
    const lives = pairwise(possible, SEED).map(([combination, trial]) => [combination, [trial]] as const)
    // Also every two values that are refused together.
    const refused = [
      ...new Set(pairwise(impossible, SEED, ['hand-over']).map(([combination]) => combination)),
    ]
    return { lives: lives.map(([combination, trials]) => [combination, trials]), refused }
  }
  const [part, parts] = WHICH === 'all' ? [1, 1] : WHICH.split('/').map(Number)
  const mine = <T>(list: readonly T[]): T[] => list.filter((_, at) => at % (parts ?? 1) === (part ?? 1) - 1)
  return { lives: mine(possible).flatMap(lifetimes), refused: mine(impossible) }
}

/** All trials of a disk: one that ends with its server needs a second disk for the last trial. */
function lifetimes(combination: Combination): [Combination, readonly Trial[]][] {
  if (combination.recovery !== 'none') return [[combination, TRIALS]]
  const [last] = TRIALS.slice(-1)
  return [
    [combination, TRIALS.slice(0, -1)],
    [combination, last ? [last] : []],
  ]
}

function nameOf({ backend, transport, copy, form, recovery }: Combination): string {
  return `${backend}, ${transport}, ${copy}, ${form}, recovery ${recovery}`
}

async function inDirectory<T>({ backend }: Combination, action: (dir: string) => Promise<T>): Promise<T> {
  const dir = mkdtempSync('/dev/shm/matrix-')
  try {
    await sh(
      'cd "$1"; truncate -s "$2" disk; truncate -s $(($2 / 2)) left right; touch errors',
      dir,
      `${SIZE}`,
    )
    writeImage(`${dir}/image`, SIZE)
    const command = `qemu-nbd -t -e 16 -k ${dir}/socket -f raw ${dir}/disk`
    await using _server = backend === 'nbd' ? await NbdServer.start(command, `${dir}/socket`) : undefined
    return await action(dir)
  } finally {
    rmSync(dir, { recursive: true })
  }
}

async function within<T>(what: string, action: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} took longer than ${PATIENCE} ms`)), PATIENCE)
  })
  return await Promise.race([action, late]).finally(() => clearTimeout(timer))
}

async function stateOf({ id }: Subject): Promise<string> {
  return (await (await UblkDevice.open(id)).info()).state
}

/** A load on a disk. */
class Load {
  readonly #dir: string
  readonly #ended: ReturnType<typeof result>

  constructor(dir: string, path: string, words: string) {
    this.#dir = dir
    for (const name of ['stop', 'going']) rmSync(`${dir}/${name}`, { force: true })
    writeFileSync(`${dir}/errors`, '')
    this.#ended = result(shell(LOAD, path, dir, words))
  }

  /** The number of failed requests of each finished round. */
  get rounds(): number[] {
    return readFileSync(`${this.#dir}/errors`, 'utf8').split('\n').filter(Boolean).map(Number)
  }

  /** Waits until it has finished its first round, or one that began after the call. */
  async round(): Promise<void> {
    const before = this.rounds.length && this.rounds.length + 1
    const failed = this.#ended.then(({ status, stderr }) => {
      if (status !== 0) throw new Error(`the load failed: ${stderr}`)
    })
    await Promise.race([failed, until(() => this.rounds.length > before, 'the load continues')])
  }

  /** Ends it, and returns the number of failed requests. */
  async end({ going = false } = {}): Promise<number> {
    writeFileSync(`${this.#dir}/${going ? 'going' : 'stop'}`, '')
    if (going) return 0
    return await this.ended()
  }

  async ended(): Promise<number> {
    const { status, stderr } = await within('the end of the load', this.#ended)
    if (status !== 0) throw new Error(`the load failed: ${stderr}`)
    return this.rounds.reduce((sum, count) => sum + count, 0)
  }
}

/** Arguments for fio. A failed request ends it, unless failures are allowed. */
function words(combination: Combination, tolerant: boolean): string {
  const checks = '--rw=randwrite --verify=crc32c --verify_fatal=1 --verify_state_save=0'
  const load = keepsItsBytes(combination) ? checks : '--rw=randrw'
  // fio ends at EREMOTEIO in any case, which a disk returns that fails while it has no server.
  const tolerance = {
    none: '',
    reissue: '',
    requeue: ' --continue_on_error=io',
    fail: ' --ignore_error=5:121,5:121',
  }
  return tolerant ? load + tolerance[combination.recovery] : load
}

async function refusedBecause(t: ExecutionContext, why: RegExp, action: Promise<void>): Promise<void> {
  const error = await t.throwsAsync(within('a refusal', action))
  t.regex(error?.message ?? '', why)
}

const trials: Record<
  Trial,
  (t: ExecutionContext, disk: Subject, of: Combination, dir: string) => Promise<void>
> = {
  'hand-over': async (t, disk, combination, dir) => {
    const load = new Load(dir, disk.path, words(combination, false))
    await load.round()
    const why = noHandOver(combination)
    if (why) await refusedBecause(t, why, disk.handOver())
    else await within('the hand-over', disk.handOver())
    await load.round()
    t.is(await load.end(), 0)
  },
  resize: async (t, disk, combination, dir) => {
    const load = new Load(dir, disk.path, words(combination, false))
    await load.round()
    const why = noResize(combination)
    // A disk in use is not shrunk, and the load uses it.
    if (why) await refusedBecause(t, why, disk.resize(2 * SIZE))
    else {
      await within('growing', disk.resize(2 * SIZE))
      t.is((await UblkDevice.open(disk.id)).size, 2 * SIZE)
      await load.round()
    }
    t.is(await load.end(), 0)
    if (why) return
    await within('shrinking', disk.resize(SIZE))
    t.is((await UblkDevice.open(disk.id)).size, SIZE)
  },
  kill: async (t, disk, combination, dir) => {
    const { recovery } = combination
    const load = new Load(dir, disk.path, words(combination, true))
    await load.round()
    if (recovery === 'none') await load.end({ going: true })
    await within('the end of the server', disk.kill())
    if (recovery === 'none') {
      await load.ended() // no request hangs
      await until(async () => (await stateOf(disk)) !== 'live', 'the disk is gone')
      return
    }
    await within('the recovery', disk.recover())
    await load.round()
    const failed = await load.end()
    if (recovery === 'reissue') t.is(failed, 0)
    if (recovery === 'requeue') t.true(failed <= DEPTH, `${failed} requests failed`)
  },
}

/** Deletes it under load. */
async function deleteUnderLoad(disk: Subject, combination: Combination, dir: string): Promise<void> {
  const gone = combination.recovery === 'none' && (await stateOf(disk)) !== 'live'
  if (gone) return await within('the deletion', disk.delete())
  const load = new Load(dir, disk.path, words(combination, false))
  await load.round()
  await load.end({ going: true })
  await within('the deletion under load', disk.delete())
  await load.ended()
}

/** Makes a disk, does what is to be done to it, and deletes it. */
function life([combination, which]: [Combination, readonly Trial[]]): Job {
  const title = `${nameOf(combination)}: ${which.join(', ')}, forced deletion`
  const run = async (t: ExecutionContext): Promise<void> => {
    await inDirectory(combination, async dir => {
      const disk = await within('the creation', makeSubject(combination, dir))
      const { transport, copy } = await (await UblkDevice.open(disk.id)).info()
      t.deepEqual({ transport, copy }, { transport: combination.transport, copy: combination.copy }, title)
      for (const trial of which) await trials[trial](t, disk, combination, dir)
      await deleteUnderLoad(disk, combination, dir)
    })
    counted.done++
  }
  return { title, run }
}

// Those that take about as long together.
sideBySide(
  test,
  plan.lives.toSorted(([a], [b]) => Number(throughCommands(a)) - Number(throughCommands(b))).map(life),
)

test('what is not possible is refused for its reason, and nothing is left', async t => {
  const program = new Program()
  t.teardown(() => program.kill())
  const refusedInOrder = async (list: readonly Combination[]): Promise<void> => {
    for (const combination of list) {
      const error = await t.throwsAsync(
        inDirectory(combination, dir => makeSubject(combination, dir, program)),
        undefined,
        nameOf(combination),
      )
      const why = refusals(combination)
      t.true(
        why.some(reason => reason.test(error?.message ?? '')),
        `${nameOf(combination)}: ${error?.message}`,
      )
      await until(
        async () => (await UblkDevice.list()).length === 0,
        `nothing is left of ${nameOf(combination)}`,
      )
      counted.refused++
    }
  }
  const [commands, programs] = [
    plan.refused.filter(throughCommands),
    plan.refused.filter(one => !throughCommands(one)),
  ]
  const half = commands.length / 2
  await Promise.all([programs, commands.slice(0, half), commands.slice(half)].map(refusedInOrder))
  t.pass()
})

test('nothing was left out', t => {
  const { done, refused } = counted
  t.log(`UBLK_TS_SEED=${SEED} UBLK_TS_MATRIX=${WHICH}`)
  t.log(
    `${done} lives of ${possible.length} possible combinations; ${refused} refused of ${impossible.length}`,
  )
  t.is(sayable.length + everything.filter(combination => unsayable(combination)).length, everything.length)
  t.is(done, plan.lives.length)
  t.is(refused, plan.refused.length)
  if (WHICH === 'all') {
    t.is(new Set(plan.lives.map(([combination]) => combination)).size + refused, sayable.length)
  }
  if (WHICH !== 'sample') return
  const wanted = new Set(possible.flatMap(one => TRIALS.flatMap(trial => pairsOf([one, trial]))))
  const run = new Set(plan.lives.flatMap(([one, [trial]]) => (trial ? pairsOf([one, trial]) : [])))
  t.deepEqual(
    [...wanted].filter(pair => !run.has(pair)),
    [],
  )
})
