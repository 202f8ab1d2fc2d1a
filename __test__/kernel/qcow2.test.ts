// processors: 2
/**
 * Disks in qcow2 images, checked by QEMU's own tools. UBLK_TS_KILLS says how often a server is killed.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import test from 'ava'
import { Detached, leaveNoServerBehind } from '../support/detached.js'
import { kernelHas } from '../support/modes.js'
import { result, run, sh, shell } from '../support/program.js'

leaveNoServerBehind(test)

const KILLS = Number(process.env['UBLK_TS_KILLS'] ?? 3)
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
     qemu-img create -q -f qcow2 -b "$1/base" -F raw image 32M`,
    DIR,
  )
  const words = `--qcow2 ${IMAGE} --backing ${DIR} --recovery reissue --queues 2`
  const disk = await Detached.create(words)
  const load = result(
    shell(
      `cd "$2"; while [ ! -e stop ]; do
         fio --name=x --filename="$1" --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite --bsrange=4k-128k --size=12m \\
           --verify=crc32c --verify_fatal=1 --randrepeat=0 --verify_state_save=0 --output-format=terse >fio.out
         blkdiscard -o 4M -l 4M "$1"
       done`,
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
  t.like(JSON.parse((await run('list', '--json')).stdout).ublkdevices[0], { backend: 'qcow2', source: IMAGE })
  // Nothing was written behind the load: the base shows.
  await sh('cmp -i 13M -n 7M "$1" "$2/base"', disk.path, DIR)
  t.deepEqual(await run('delete', disk.path), SILENT)
  await check(true)
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
