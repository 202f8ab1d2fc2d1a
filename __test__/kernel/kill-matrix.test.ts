// processors: 2
/**
 * Servers that are killed at random moments, under load: what a disk's users notice is what its recovery promises.
 * UBLK_TS_KILLS says how often each is killed, UBLK_TS_SEED replays the moments. A disk of each kind is served as it is by
 * itself; in the driver's other ways its server is killed once, unless UBLK_TS_MODES=all, which takes a machine with more
 * time: vm/run --timeout 1800 npx ava dist-test/kernel/kill-matrix.test.js.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import test from 'ava'
import { leaveNothingBehind } from '../support/devices.js'
import { automatic, inLab, kernelHas, MODES, type Mode } from '../support/modes.js'
import { type BackendName, Mortal, type Recovery, randomNumbers } from '../support/mortal.js'
import { result, sh, shell } from '../support/program.js'
import { until } from '../support/server.js'
import { type Job, sideBySide } from '../support/side-by-side.js'

leaveNothingBehind(test)

const KILLS = Number(process.env['UBLK_TS_KILLS'] ?? 2)
const SEED = Number(process.env['UBLK_TS_SEED'] ?? Date.now() % 2 ** 31)
const ALL = process.env['UBLK_TS_MODES'] === 'all'
const DEPTH = 32

/** Writes and checks the disk again and again, until told to stop; counts the requests that failed. */
const VERIFY = `
cd "$2"
while [ ! -e stop ]; do
  fio --name=x --filename="$1" --direct=1 --ioengine=libaio --iodepth=${DEPTH} --rw=randwrite --bs=4k --size=8m \
    --verify=crc32c --verify_fatal=1 --randrepeat=0 --verify_state_save=0 $3 --output-format=json --output=out
  jq '.jobs[0].total_err // 0' out >>errors
done
`

/** Writes files and notes what is durable, until told to stop or until a write fails. */
const FILES = `
cd "$1"
while [ ! -e stop ]; do
  at=$(($(cat at) + 1)); echo $at >at
  head -c $((RANDOM * 4)) /dev/urandom >mnt/$at
  sync mnt/$at mnt
  sha256sum mnt/$at >>sums
  # Not more than the disk has room for.
  [ $(wc -l <sums) -le 40 ] || { old=$(head -n 1 sums); sed -i 1d sums; rm "\${old#*  }"; }
done
`

async function inDirectory(action: (dir: string) => Promise<void>): Promise<void> {
  const dir = mkdtempSync('/dev/shm/killed-')
  try {
    await sh(
      'truncate -s 32M "$1/disk"; truncate -s 16M "$1/left" "$1/right"; mkdir "$1/mnt"; touch "$1/sums" "$1/errors"; echo 0 >"$1/at"',
      dir,
    )
    await action(dir)
  } finally {
    await sh('! mountpoint -q "$1/mnt" || umount -l "$1/mnt"', dir)
    rmSync(dir, { recursive: true })
  }
}

/** One disk, and how often its server is killed. */
interface Victim {
  readonly backend: BackendName
  readonly recovery: Recovery
  /** How it has to be served. */
  readonly mode: Mode
  /** That is asked for; else it has to come by itself. */
  readonly asked: boolean
  readonly kills: number
}

const recoveries = ['reissue', 'requeue', 'fail'] as const
const backends = [
  { backend: 'memory', kind: 'memory', ways: ['copy'], recoveries },
  { backend: 'file', kind: 'file', ways: ['copy', 'zero'], recoveries },
  { backend: 'stripe', kind: 'file', ways: ['copy', 'zero'], recoveries },
  // Its own are the marks of what was written: the next server has to find them all.
  { backend: 'overlay', kind: 'file', ways: ['zero'], recoveries: ['reissue'] },
  { backend: 'JavaScript', kind: 'javascript', ways: ['copy', 'user'], recoveries },
] as const
const counted = { disks: 0, kills: 0, planned: 0, impossible: 0 }

const jobs: Job[] = []
for (const { backend, kind, ways, recoveries } of backends) {
  const own = automatic(kind)
  for (const mode of MODES.filter(({ copy }) => ways.some(way => way === copy))) {
    const usual = mode.transport === own.transport && mode.copy === own.copy
    for (const recovery of usual || ALL ? recoveries : (['reissue'] as const)) {
      const victim = { backend, recovery, mode, asked: !usual, kills: usual || ALL ? KILLS : 1 }
      plan('a checked load', victim, underVerify)
      if (usual || ALL) plan('a file system', victim, underFiles)
    }
  }
}

function plan(what: string, victim: Victim, run: (victim: Victim, dir: string) => Promise<string>): void {
  const { backend, recovery, mode, kills } = victim
  counted.planned++
  if (!kernelHas(mode)) {
    counted.impossible++ // What is refused then, and how, modes.test tells.
    return
  }
  const disk = `a ${backend} disk (${mode.transport}, ${mode.copy})`
  const often = kills === 1 ? 'once' : `${kills} times`
  const title = `${what} on ${disk} whose server is killed ${often} sees what ${recovery} promises`
  jobs.push({
    title,
    async run(t) {
      await inDirectory(async dir => t.log(`${title}: ${await run(victim, dir)}; UBLK_TS_SEED=${SEED}`))
      counted.disks++
      counted.kills += kills
      t.pass()
    },
  })
}

sideBySide(test, jobs)

test('nothing was left out', t => {
  const { disks, kills, planned, impossible } = counted
  t.log(`${disks} disks, ${kills} kills; ${impossible} ways that this kernel lacks`)
  t.is(disks + impossible, planned)
  if (!inLab) return
  // Of the 2, 4, 4 and 4 ways one each is a disk's own; an overlay has 2 ways and one recovery.
  t.deepEqual([impossible, disks], ALL ? [0, 14 * 3 * 2 + 2 * 2] : [0, 4 * 3 * 2 + 10 + 2 + 1])
})

async function make({ backend, recovery, mode, asked }: Victim, dir: string): Promise<Mortal> {
  return await Mortal.make(backend, recovery, dir, asked ? mode : undefined)
}

/** Deletes the disk, which is served as it was from the first. */
async function end(disk: Mortal, { mode }: Victim): Promise<void> {
  const last = await disk.mode()
  if (!isDeepStrictEqual(last, mode)) throw new Error(`it was served with ${last.transport}, ${last.copy}`)
  await disk.delete()
}

async function underVerify(victim: Victim, dir: string): Promise<string> {
  const { recovery, kills } = victim
  const disk = await make(victim, dir)
  // A request that fails is counted, and what it was to write is not looked for; a wrong byte is the end.
  // EREMOTEIO, from a disk that fails while nobody serves it, is for fio to ignore: it would end even so.
  const tolerant = { reissue: '', requeue: '--continue_on_error=io', fail: '--ignore_error=5:121,5:121' }
  const load = result(shell(VERIFY, disk.path, dir, tolerant[recovery]))
  const random = randomNumbers(SEED)
  for (let kill = 0; kill < kills; kill++) {
    await sleep(random() * 1000)
    await disk.killed()
  }
  writeFileSync(`${dir}/stop`, '')
  const { status, stdout, stderr } = await load
  if (status !== 0) throw new Error(`the load failed: ${stderr}${stdout}`)
  const errors = readFileSync(`${dir}/errors`, 'utf8').split('\n').map(Number)
  const failed = errors.reduce((sum, count) => sum + count, 0)
  if (recovery === 'requeue' && failed > kills * DEPTH) {
    throw new Error(`${failed} requests failed, more than were in flight at ${kills} kills`)
  }
  await end(disk, victim)
  return `${errors.length - 1} rounds, ${failed} failed requests`
}

async function underFiles(victim: Victim, dir: string): Promise<string> {
  const { recovery, kills } = victim
  const disk = await make(victim, dir)
  const random = randomNumbers(SEED)
  await sh('mkfs.ext4 -q "$1"; mount "$1" "$2/mnt"', disk.path, dir)
  let load = result(shell(FILES, dir))
  let broken = 0
  for (let kill = 0; kill < kills; kill++) {
    await sleep(random() * 1000)
    await disk.killed()
    if (recovery === 'reissue') continue
    // A file system takes a failed write for a broken disk: what it had made durable has to be there.
    const ended = await Promise.race([load, sleep(random() * 500)])
    if (ended === undefined) continue
    broken++
    await check(disk, dir)
    await sh('mount "$1" "$2/mnt"', disk.path, dir)
    load = result(shell(FILES, dir))
  }
  writeFileSync(`${dir}/stop`, '')
  const { status, stdout, stderr } = await load
  if (status !== 0 && recovery === 'reissue') throw new Error(`the load failed: ${stderr}${stdout}`)
  await check(disk, dir, recovery === 'reissue')
  await end(disk, victim)
  return `${readFileSync(`${dir}/at`, 'utf8').trim()} files, broken ${broken} times`
}

/** Looks whether the disk has all that was durable; unmounts it. */
async function check({ path }: Mortal, dir: string, clean = false): Promise<void> {
  await until(async () => {
    await sh('umount "$1/mnt" 2>/dev/null || ! mountpoint -q "$1/mnt"', dir).catch(() => {})
    return (await sh('mountpoint -q "$1/mnt" && echo mounted || :', dir)) === ''
  }, 'the file system is unmounted')
  // 1: mended. What a broken file system left is mended first.
  if (!clean) await sh('e2fsck -fy "$1" || [ $? = 1 ]', path)
  await sh(
    'e2fsck -fn "$1"; mount "$1" "$2/mnt"; cd "$2"; [ ! -s sums ] || sha256sum --quiet -c sums; umount mnt',
    path,
    dir,
  )
}
