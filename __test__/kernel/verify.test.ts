// processors: 1 and 2
import { memory, UblkDevice } from 'ublk-ts'
import { errorsOf, leaveNothingBehind } from '../support/devices.js'
import { onTwo, test } from '../support/processors.js'
import { sh } from '../support/program.js'
import { Server } from '../support/server.js'
import { MEBIBYTES, verify } from '../support/verify.js'

leaveNothingBehind(test)

test.before('make room', () => sh('mkdir -p /tmp/verify/mnt'))

test.after.always(() => sh('rm -rf /tmp/verify'))

for (const queues of [1, 2]) {
  const testOf = queues > 1 ? onTwo : test
  testOf(`what fio writes in mixed sizes is what it reads: memory, ${queues} queues`, async t => {
    await Server.with(`--mem ${MEBIBYTES}M --queues ${queues}`, ({ path }) => verify(path))
    t.pass()
  })

  testOf(`what fio writes in mixed sizes is what it reads: a file, ${queues} queues`, async t => {
    await sh(`truncate -s ${MEBIBYTES}M /tmp/verify/disk`)
    await Server.with(`--file /tmp/verify/disk --queues ${queues}`, ({ path }) => verify(path))
    await sh('rm /tmp/verify/disk')
    t.pass()
  })
}

onTwo('what fio writes in mixed sizes is what it reads: shared threads', async t => {
  await sh(`truncate -s ${MEBIBYTES}M /tmp/verify/disk`)
  for (const backend of [`--mem ${MEBIBYTES}M`, '--file /tmp/verify/disk']) {
    await Server.with(`${backend} --queues 2 --threads shared`, ({ path }) => verify(path))
  }
  await sh('rm /tmp/verify/disk')
  t.pass()
})

onTwo(
  'what fio writes is what it reads on many disks at the same time, while others come and go',
  async t => {
    const options = { backend: memory(`${MEBIBYTES}M`), queues: 2, threads: 'shared' } as const
    const disks = await Promise.all([1, 2, 3].map(() => UblkDevice.create(options)))
    const errors = disks.map(errorsOf)
    let over = false
    const churn = async () => {
      while (!over) {
        const disk = await UblkDevice.create(options)
        await sh('dd if=/dev/zero of="$1" bs=64k count=64 oflag=direct status=none', disk.path)
        await disk.delete({ force: true })
      }
    }
    const churning = churn()
    await Promise.all(disks.map(({ path }) => verify(path)))
    over = true
    await churning
    await Promise.all(disks.map(disk => disk.delete()))
    t.deepEqual(errors.flat(), [])
  },
)

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
