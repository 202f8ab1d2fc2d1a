// processors: 2
/**
 * Disks in qcow2 images, checked by QEMU's own tools. UBLK_TS_KILLS says how often a server is killed, UBLK_TS_OPERATIONS how
 * many operations each of eight clients has, and UBLK_TS_SEED which ones.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import test from 'ava'
import { Detached, leaveNoServerBehind } from '../support/detached.js'
import { kernelHas } from '../support/modes.js'
import { result, run, sh, shell } from '../support/program.js'

leaveNoServerBehind(test)

const KILLS = Number(process.env['UBLK_TS_KILLS'] ?? 3)
const OPERATIONS = Number(process.env['UBLK_TS_OPERATIONS'] ?? 40)
/** Eight threads, each with its own part of the requests, for as many queues as there are processors. */
const EIGHT = `--queues 8 --threads-per-queue ${Math.ceil(8 / cpus().length)}`
const DIR = mkdtempSync('/dev/shm/qcow2-')
const IMAGE = `${DIR}/image`
const SILENT = { status: 0, signal: null, stdout: '', stderr: '' }

test.after.always(() => rmSync(DIR, { recursive: true }))

/**
 * Fails unless the image has no errors and, if not `leaks`, no leaked cluster either. A server that was killed keeps its
 * lock for a moment.
 */
async function check(leaks = false): Promise<void> {
  await sh(
    `for try in $(seq 50); do
       status=0; said=$(qemu-img check "$1" 2>&1) || status=$?
       [[ $said = *lock* ]] || break
       sleep 0.1
     done
     [ $status = 0 ] || [ $status = ${leaks ? 3 : 0} ] || { echo "$said"; exit 1; }`,
    IMAGE,
  )
}

/**
 * Random commands of qemu-io for eight clients. Each has every eighth unit of the disk to itself, one and a half clusters: the
 * clusters are shared, but no order of the clients changes the result.
 */
function operations(): { lanes: string[][]; seed: number } {
  const seed = Number(process.env['UBLK_TS_SEED'] ?? Date.now() % 2 ** 31)
  let state = seed
  const below = (limit: number): number => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff
    return Math.floor((state / 2 ** 31) * limit)
  }
  const UNIT = 24 << 10
  const units = Math.floor((16 << 20) / UNIT)
  const lane = (number: number): string[] =>
    Array.from({ length: OPERATIONS }, () => {
      const start = UNIT * (8 * below(Math.floor((units - number + 7) / 8)) + number)
      const first = 512 * below(UNIT / 512)
      const length = 512 * (1 + below((UNIT - first) / 512))
      const [at, pattern] = [start + first, 1 + below(255)]
      const kinds = [
        `write -z ${at} ${length}`,
        `write -z -u ${at} ${length}`,
        // What a discard leaves there is the image's own business.
        `discard ${at} ${length}\nwrite -P ${pattern} ${at} ${length}`,
      ]
      return kinds[below(8)] ?? `write -P ${pattern} ${at} ${length}`
    })
  return { lanes: Array.from({ length: 8 }, (_, number) => lane(number)), seed }
}

const modes = [
  { transport: 'per-io', copy: 'copy' },
  { transport: 'batch', copy: 'zero' },
] as const

for (const { transport, copy } of modes.filter(kernelHas)) {
  const words = `--transport ${transport} --copy ${copy}`

  test.serial(`a file system on an image keeps its files, and gives space back: ${words}`, async t => {
    await sh('cd "$1"; rm -f image; mkdir -p mnt; qemu-img create -q -f qcow2 image 64M', DIR)
    const { path } = await Detached.create(`--qcow2 ${IMAGE} --queues 2 ${words}`)
    const sizes = await sh(
      `cd "$2"; mkfs.ext4 -q "$1"; mount "$1" mnt
       fio --name=x --directory=mnt --size=6m --numjobs=2 --rw=randwrite --bsrange=512-64k --ioengine=libaio --iodepth=16 \\
         --direct=1 --verify=crc32c --verify_fatal=1 --verify_state_save=0 --output=/dev/null
       cp /usr/bin/qemu-img mnt/kept; sync; full=$(stat -c %b image)
       rm mnt/x.*; sync mnt; fstrim mnt; sync mnt; echo $full $(stat -c %b image)
       cmp mnt/kept /usr/bin/qemu-img; umount mnt; e2fsck -fn "$1" >/dev/null 2>&1`,
      path,
      DIR,
    )
    const [full = 0, trimmed = 0] = sizes.split(' ').map(Number)
    t.true(trimmed < full - (8 * 2 ** 20) / 512, sizes)
    t.deepEqual(await run('delete', path), SILENT)
    await check()
    // What QEMU reads is the file system that was written.
    await sh('cd "$1"; qemu-img convert -O raw image raw; e2fsck -fn raw >/dev/null 2>&1', DIR)
  })
}

test.serial('an image survives servers that are killed under a checked load, and an upgrade', async t => {
  await sh(
    `cd "$1"; rm -f image stop; head -c 20M /dev/urandom >base
     qemu-img create -q -f qcow2 -o cluster_size=16k -b "$1/base" -F raw image 32M`,
    DIR,
  )
  const words = `--qcow2 ${IMAGE} --backing ${DIR} --recovery reissue ${EIGHT}`
  const disk = await Detached.create(words)
  // Verified data, in which ranges are discarded; and a part with writes and discards at the same places.
  const load = result(
    shell(
      `cd "$2"; fio="fio --filename=$1 --direct=1 --ioengine=libaio --randrepeat=0 --output-format=terse"
       { while [ ! -e stop ]; do
           $fio --name=x --iodepth=8 --rw=randwrite --bsrange=4k-128k --size=3m --numjobs=4 --offset_increment=3m \
             --verify=crc32c --verify_fatal=1 --verify_state_save=0
           blkdiscard -o 4M -l 4M "$1"
         done; } >fio.out &
       verified=$!
       while [ ! -e stop ]; do
         $fio --bsrange=512-64k --offset=20m --size=8m --io_size=4m --iodepth=8 --name=w --rw=randwrite --name=d --rw=randtrim
       done >fio2.out
       wait $verified`,
      disk.path,
      DIR,
    ),
  )
  for (let kill = 0; kill < KILLS; kill++) {
    await sleep(200 + 150 * (kill % 7))
    await disk.signal('SIGKILL')
    await check(true)
    t.deepEqual(await run('recover', disk.path), { ...SILENT, stdout: `${disk.path}\n` })
  }
  const { status, stderr } = await run('upgrade', disk.path, '--json')
  t.is(status, 0, stderr)
  await sh('sleep 0.3; touch "$1/stop"', DIR)
  t.deepEqual(await load, SILENT)
  t.like(disk.record.options.backend, { kind: 'qcow2', path: IMAGE, backing: [DIR] })
  t.like(JSON.parse((await run('list', '--json')).stdout).ublkdevices[0], {
    backend: 'qcow2',
    source: IMAGE,
  })
  // Nothing was written between the parts of the load: the base shows.
  await sh('cmp -i 13M -n 7M "$1" "$2/base"', disk.path, DIR)
  t.deepEqual(await run('delete', disk.path), SILENT)
  await check(true)
})

test.serial('an image that eight threads write to holds what QEMU makes of the same operations', async t => {
  const { lanes, seed } = operations()
  t.log(`seed ${seed}`)
  await sh(
    `cd "$1"; rm -f image theirs; head -c 10240512 /dev/urandom >base
     for name in image theirs; do qemu-img create -q -f qcow2 -o cluster_size=16k -b "$1/base" -F raw $name 16M; done`,
    DIR,
  )
  lanes.forEach((lane, number) => {
    writeFileSync(`${DIR}/lane${number}`, lane.map(command => `${command}\n`).join(''))
  })
  const { path } = await Detached.create(`--qcow2 ${IMAGE} --backing ${DIR} ${EIGHT}`)
  await sh(
    `cd "$2"; cpus=$(nproc)
     for lane in 0 1 2 3 4 5 6 7; do
       taskset -c $((lane % cpus)) qemu-io -f raw -t none "$1" <lane$lane >out$lane &
     done; wait`,
    path,
    DIR,
  )
  t.deepEqual(await run('delete', path), SILENT)
  await check()
  await sh('cd "$1"; cat lane? | qemu-io -f qcow2 theirs >out; ! grep -hi fail out out?', DIR)
  t.regex(await sh('cd "$1"; qemu-img compare image theirs', DIR), /identical/)
})

test.serial(
  'images share a base, which nobody can write to meanwhile; what is not allowed is refused',
  async t => {
    await sh(
      `cd "$1"; head -c 4M /dev/urandom >base
     for name in one two; do qemu-img create -q -f qcow2 -b base -F raw $name 4M; done; rm -f image; mv one image`,
      DIR,
    )
    const refused = await run('create', '--qcow2', IMAGE)
    t.is(refused.status, 1)
    t.regex(refused.stderr, /has the backing file \S+\/base, which may not be opened/)
    const disks = [
      await Detached.create(`--qcow2 ${IMAGE} --backing ${DIR}/base --read-only`),
      await Detached.create(`--qcow2 ${DIR}/two --backing ${DIR}/base`),
    ]
    for (const { path } of disks) await sh('cmp "$1" "$2/base"', path, DIR)
    for (const words of [
      ['--file', `${DIR}/base`],
      ['--qcow2', `${DIR}/two`, '--backing', DIR],
    ]) {
      const busy = await run('create', ...words)
      t.is(busy.status, 1)
      t.regex(busy.stderr, /is in use: /)
    }
    for (const { path } of disks) t.deepEqual(await run('delete', path), SILENT)
    await sh('cd "$1"; qemu-img create -q -f qcow2 -o extended_l2=on,cluster_size=64k image 4M', DIR)
    const unable = await run('create', '--qcow2', IMAGE)
    t.regex(unable.stderr, /image has extended L2 entries/)
    t.regex(unable.stderr, /qemu-nbd serves it/)
  },
)
