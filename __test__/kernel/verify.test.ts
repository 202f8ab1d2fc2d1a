import { writeFileSync } from 'node:fs'
import test from 'ava'
import { leaveNothingBehind } from '../support/devices.js'
import { sh } from '../support/program.js'
import { Server } from '../support/server.js'

leaveNothingBehind(test)

const MEBIBYTES = 16

/** Each job writes the whole disk in mixed sizes, reads it back and checks every block's checksum. */
const JOBS = `
[global]
size=${MEBIBYTES}m
direct=1
ioengine=libaio
verify=crc32c
verify_fatal=1
do_verify=1
randrepeat=0
verify_state_save=0
bssplit=512/20:4k/40:5632/10:64k/15:512k/10:1m/5
stonewall
[sequential-1]
rw=write
iodepth=1
[sequential-128]
rw=write
iodepth=128
[random-1]
rw=randwrite
iodepth=1
[random-16]
rw=randwrite
iodepth=16
[random-128]
rw=randwrite
iodepth=128
`

test.before('write the jobs', async () => {
  await sh('mkdir -p /tmp/verify/mnt')
  writeFileSync('/tmp/verify/jobs', JOBS)
})

test.after.always(() => sh('rm -rf /tmp/verify'))

const verify = (path: string) => sh('cd /tmp/verify; fio --filename="$1" --output-format=terse jobs', path)

for (const queues of [1, 2]) {
  test(`what fio writes in mixed sizes is what it reads: memory, ${queues} queues`, async t => {
    await Server.with(`--mem ${MEBIBYTES}M --queues ${queues}`, ({ path }) => verify(path))
    t.pass()
  })

  test(`what fio writes in mixed sizes is what it reads: a file, ${queues} queues`, async t => {
    await sh(`truncate -s ${MEBIBYTES}M /tmp/verify/disk`)
    await Server.with(`--file /tmp/verify/disk --queues ${queues}`, ({ path }) => verify(path))
    await sh('rm /tmp/verify/disk')
    t.pass()
  })
}

test('what fio writes in mixed sizes is what it reads: a file without the page cache', async t => {
  // tmpfs takes unaligned direct I/O and would hide mistakes; ext4 does not.
  await sh(
    `cd /tmp/verify; truncate -s 64M ext4; mkfs.ext4 -q ext4; mount -o loop ext4 mnt; truncate -s ${MEBIBYTES}M mnt/disk`,
  )
  await Server.with('--file /tmp/verify/mnt/disk --direct', ({ path }) => verify(path))
  await sh('umount /tmp/verify/mnt')
  t.pass()
})

test('what fio writes in mixed sizes is what it reads: another block device', async t => {
  const loop = (
    await sh(`cd /tmp/verify; truncate -s ${MEBIBYTES}M under; losetup --find --show under`)
  ).trim()
  await Server.with(`--file ${loop}`, ({ path }) => verify(path))
  await sh('losetup -d "$1"', loop)
  t.pass()
})
