import test from 'ava'
import { UblkDevice, worker } from 'ublk-ts'
import type { Options as SqliteOptions } from '../../examples/sqlite-disk.js'
import { leaveNothingBehind } from '../support/devices.js'
import { run, sh } from '../support/program.js'
import { Server, until } from '../support/server.js'
import { MEBIBYTES, verify } from '../support/verify.js'

leaveNothingBehind(test)

const example = (name: string): URL => new URL(`../examples/${name}.js`, import.meta.url)
const MIB = 2 ** 20

test.before(() => sh('mkdir -p /tmp/disks/mnt'))
test.after.always(() => sh('umount -q /tmp/disks/mnt || true; rm -rf --one-file-system /tmp/disks'))

test('sqlite-disk: what fio writes in mixed sizes is what it reads, and freed chunks go', async t => {
  const options: SqliteOptions = { path: '/tmp/disks/verify.db', size: MEBIBYTES * MIB }
  const chunks = 'sqlite3 /tmp/disks/verify.db "SELECT count(*) FROM chunk"'
  {
    await using disk = await UblkDevice.create({ backend: worker(example('sqlite-disk'), options) })
    await verify(disk.path)
    // From within one chunk to within another: whole ones go, of the others a part is zeroed.
    await sh(
      `dd if=/dev/urandom of=/tmp/disks/before bs=1M count=1 status=none; dd if=/tmp/disks/before of="$1" oflag=direct bs=1M status=none
      fallocate --punch-hole --offset 20480 --length 65536 /tmp/disks/before
      blkdiscard --zeroout --offset 20480 --length 65536 "$1"; blkdiscard --offset 1M --length 8M "$1"
      cmp -n 1M /tmp/disks/before "$1"; cmp -n 8M -i 1M:0 "$1" /dev/zero`,
      disk.path,
    )
  }
  t.is(Number(await sh(chunks)), ((MEBIBYTES - 8) * 1024 - 48) / 16)
})

test('sqlite-disk: a file system outlives its device', async t => {
  const options: SqliteOptions = { path: '/tmp/disks/tree.db', size: 64 * MIB }
  const on = async (script: string): Promise<void> => {
    await using disk = await UblkDevice.create({ backend: worker(example('sqlite-disk'), options) })
    await sh(script, disk.path)
  }
  await on(
    'mkfs.ext4 -q "$1"; mount "$1" /tmp/disks/mnt; cp -r dist examples /tmp/disks/mnt; umount /tmp/disks/mnt',
  )
  await on(
    'fsck.ext4 -fn "$1"; mount "$1" /tmp/disks/mnt; diff -r dist /tmp/disks/mnt/dist; diff -r examples /tmp/disks/mnt/examples; umount /tmp/disks/mnt',
  )
  await t.throwsAsync(
    UblkDevice.create({ backend: worker(example('sqlite-disk'), { ...options, path: '/no/such/dir.db' }) }),
    { message: /unable to open database file/ },
  )
})

test('sqlite-disk: what was synced survives the SIGKILL of its server, and the disk is whole', async t => {
  const options: SqliteOptions = { path: '/tmp/disks/killed.db', size: 64 * MIB }
  const program = `import { UblkDevice, worker } from 'ublk-ts'
    const disk = await UblkDevice.create({ backend: worker('${example('sqlite-disk')}', ${JSON.stringify(options)}) })
    console.log(disk.path)`
  const server = await Server.program(program)
  await sh(
    `mkfs.ext4 -q "$1"; mount "$1" /tmp/disks/mnt; cp -r dist /tmp/disks/mnt; sync -f /tmp/disks/mnt
    dd if=/dev/urandom of=/tmp/disks/mnt/late bs=1M count=8 status=none`,
    server.path,
  )
  t.is((await server.interrupt('SIGKILL')).signal, 'SIGKILL')
  await until(async () => (await run('show', `${server.id}`)).stdout.includes('dead'), 'the device is dead')
  await sh('umount /tmp/disks/mnt')
  t.is((await run('delete', `${server.id}`)).status, 0)

  await using disk = await UblkDevice.create({ backend: worker(example('sqlite-disk'), options) })
  await sh(
    'mount "$1" /tmp/disks/mnt; diff -r dist /tmp/disks/mnt/dist; umount /tmp/disks/mnt; fsck.ext4 -fn "$1"',
    disk.path,
  )
})
