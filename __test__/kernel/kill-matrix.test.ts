/**
 * Servers that are killed at random moments, under load: what a disk's users notice is what its recovery promises.
 * UBLK_TS_KILLS says how often each is killed, UBLK_TS_SEED replays the moments.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import test from 'ava'
import { leaveNothingBehind } from '../support/devices.js'
import { type BackendName, Mortal, type Recovery, randomNumbers } from '../support/mortal.js'
import { result, sh, shell } from '../support/program.js'
import { until } from '../support/server.js'

leaveNothingBehind(test)

const KILLS = Number(process.env['UBLK_TS_KILLS'] ?? 4)
const SEED = Number(process.env['UBLK_TS_SEED'] ?? Date.now() % 2 ** 31)
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
    await sh('truncate -s 32M "$1/disk"; mkdir "$1/mnt"; touch "$1/sums" "$1/errors"; echo 0 >"$1/at"', dir)
    await action(dir)
  } finally {
    await sh('! mountpoint -q "$1/mnt" || umount -l "$1/mnt"', dir)
    rmSync(dir, { recursive: true })
  }
}

const matrix = (['native', 'JavaScript'] as const).flatMap(backend =>
  (['reissue', 'requeue', 'fail'] as const).map(recovery => ({ backend, recovery })),
)

for (const { backend, recovery } of matrix) {
  test(`a checked load on a ${backend} disk sees of ${KILLS} kills what ${recovery} promises`, async t => {
    t.log(`UBLK_TS_SEED=${SEED}`)
    await inDirectory(async dir => t.log(await underVerify(backend, recovery, dir)))
    t.pass()
  })

  test(`a file system on a ${backend} disk sees of ${KILLS} kills what ${recovery} promises`, async t => {
    t.log(`UBLK_TS_SEED=${SEED}`)
    await inDirectory(async dir => t.log(await underFiles(backend, recovery, dir)))
    t.pass()
  })
}

async function underVerify(backend: BackendName, recovery: Recovery, dir: string): Promise<string> {
  const disk = await Mortal.make(backend, recovery, dir)
  // A request that fails is counted, and what it was to write is not looked for; a wrong byte is the end.
  // EREMOTEIO, from a disk that fails while nobody serves it, is for fio to ignore: it would end even so.
  const tolerant = { reissue: '', requeue: '--continue_on_error=io', fail: '--ignore_error=5:121,5:121' }
  const load = result(shell(VERIFY, disk.path, dir, tolerant[recovery]))
  const random = randomNumbers(SEED)
  for (let kill = 0; kill < KILLS; kill++) {
    await sleep(random() * 1000)
    await disk.killed()
  }
  writeFileSync(`${dir}/stop`, '')
  const { status, stdout, stderr } = await load
  if (status !== 0) throw new Error(`the load failed: ${stderr}${stdout}`)
  const errors = readFileSync(`${dir}/errors`, 'utf8').split('\n').map(Number)
  const failed = errors.reduce((sum, count) => sum + count, 0)
  if (recovery === 'requeue' && failed > KILLS * DEPTH) {
    throw new Error(`${failed} requests failed, more than were in flight at ${KILLS} kills`)
  }
  await disk.delete()
  return `${errors.length - 1} rounds, ${failed} failed requests`
}

async function underFiles(backend: BackendName, recovery: Recovery, dir: string): Promise<string> {
  const disk = await Mortal.make(backend, recovery, dir)
  const random = randomNumbers(SEED)
  await sh('mkfs.ext4 -q "$1"; mount "$1" "$2/mnt"', disk.path, dir)
  let load = result(shell(FILES, dir))
  let broken = 0
  for (let kill = 0; kill < KILLS; kill++) {
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
  await disk.delete()
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
