import { readFileSync } from 'node:fs'
import test from 'ava'
import { leaveNothingBehind, nodes } from '../support/devices.js'
import { sh } from '../support/program.js'
import { until } from '../support/server.js'
import { inLab, Systemd } from '../support/systemd.js'

leaveNothingBehind(test)
const DOCUMENT = new URL('../../docs/operations.md', import.meta.url)
const inSystemd = inLab ? test : test.skip

let systemd: Systemd
if (inLab) {
  test.before('systemd is started, and our files are installed as the documents say', async () => {
    systemd = await Systemd.boot()
  })
  test.after.always(async () => await systemd?.halt())
}

inSystemd('systemd finds no fault in the unit of a disk', async t => {
  t.is(await systemd.sh('systemd-analyze verify --man=no ublk-ts@0.service 2>&1'), '')
})

inSystemd('a user in the group ublk may use the driver', async t => {
  t.is(await systemd.sh('stat --format "%U %G %a" /dev/ublk-control'), 'root ublk 660\n')
})

/** What systemd knows of the service of disk 7. */
const service = async (property: string): Promise<string> =>
  (await systemd.sh('systemctl show --value --property "$1" ublk-ts@7', property)).trim()

inSystemd('a disk that is a service is there when it has started, survives its server, and goes', async t => {
  t.teardown(() => systemd.sh('systemctl stop ublk-ts@7'))
  await sh('truncate --size 64M /tmp/7.img; mkdir -p /etc/ublk-ts')
  await sh('echo "ARGS=--file /tmp/7.img --recovery reissue" >/etc/ublk-ts/7.conf')
  await systemd.sh('systemctl start ublk-ts@7')
  const node = await sh('stat --format "%i %F" /dev/ublkb7')
  const scheduler = (): Promise<string> => sh('cat /sys/block/ublkb7/queue/scheduler')
  await until(async () => (await scheduler()).includes('[none]'), 'the disk has no scheduler')
  await sh('mkfs.ext4 -q /dev/ublkb7; mkdir -p /tmp/7; mount /dev/ublkb7 /tmp/7; echo kept >/tmp/7/file')
  t.teardown(() => sh('! mountpoint -q /tmp/7 || umount /tmp/7'))

  for (const [at, signal] of (['KILL', 'STOP'] as const).entries()) {
    await systemd.sh('kill -s "$1" "$2"', signal, await service('MainPID'))
    const back = async (): Promise<boolean> =>
      (await service('NRestarts')) === `${at + 1}` && (await service('ActiveState')) === 'active'
    await until(back, `the service is back after SIG${signal}`, 60_000)
    await sh('echo "$1" >>/tmp/7/file; sync', signal)
  }
  t.is(await sh('cat /tmp/7/file'), 'kept\nKILL\nSTOP\n')
  t.is(await sh('stat --format "%i %F" /dev/ublkb7'), node)

  await sh('umount /tmp/7; fsck.ext4 -fn /dev/ublkb7')
  await systemd.sh('systemctl stop ublk-ts@7')
  t.is(await service('Result'), 'success')
  t.deepEqual(nodes(), [])
})

inSystemd(
  'a file system in /etc/fstab fits into the boot, and stays when the server of its disk is killed',
  async t => {
    const [line = ''] = /^\/dev\/ublkb0 .*$/m.exec(readFileSync(DOCUMENT, 'utf8')) ?? []
    t.teardown(() => systemd.sh('systemctl stop data.mount ublk-ts@0; rm -r /data'))
    await sh(
      `mkdir -p /etc/ublk-ts /data; truncate --size 64M /tmp/0.img; mkfs.ext4 -q /tmp/0.img
    echo "ARGS=--file /tmp/0.img --recovery reissue" >/etc/ublk-ts/0.conf; echo "$1" >/tmp/fstab
    cp /lib/systemd/system-generators/systemd-fstab-generator /tmp`,
      line,
    )
    const units = '/run/systemd/system'
    await systemd.sh(
      `SYSTEMD_FSTAB=/tmp/fstab /tmp/systemd-fstab-generator ${units} ${units} ${units}; systemctl daemon-reload`,
    )
    // It says so if systemd has to leave out something, because it would come before itself.
    t.is(await systemd.sh('systemd-analyze verify --man=no data.mount 2>&1'), '')
    await systemd.sh('systemctl start ublk-ts@0 data.mount; echo kept >/data/file; sync -f /data')
    const show = async (property: string): Promise<string> =>
      (await systemd.sh('systemctl show --value --property "$1" ublk-ts@0', property)).trim()
    await systemd.sh('kill -KILL "$1"', await show('MainPID'))
    const back = async (): Promise<boolean> =>
      (await show('NRestarts')) === '1' && (await show('ActiveState')) === 'active'
    await until(back, 'the service is back', 60_000)
    t.is(await systemd.sh('echo more >>/data/file; sync -f /data; cat /data/file'), 'kept\nmore\n')
    await systemd.sh('systemctl stop data.mount; systemctl stop ublk-ts@0')
    t.is(await show('Result'), 'success')
    t.deepEqual(nodes(), [])
  },
)

inSystemd('systemd finds little in the unit of a disk that is open to misuse', async t => {
  // Out of ten. The rest is what a server needs: root, devices, and the network for remote storage.
  t.regex(
    await systemd.sh('systemd-analyze security --no-pager --threshold=43 ublk-ts@0.service 2>&1'),
    /exposure level/,
  )
})

const kinds: [string, string][] = [
  ['memory', '--mem 16M --buffers prefault,lock --recovery reissue'],
  ['a file at home', '--file /home/8.img --direct'],
  ['a block device', '--file /dev/loop7'],
  ['a module in /tmp, with threads of its own', '--worker /tmp/8.mjs --queues 2'],
]

inSystemd('a service has all that disks of every kind need', async t => {
  t.teardown(() => systemd.sh('systemctl stop ublk-ts@8'))
  await sh(`
    mkdir -p /etc/ublk-ts; truncate --size 16M /home/8.img /tmp/8.img; losetup /dev/loop7 /tmp/8.img
    cat >/tmp/8.mjs <<'END'
    import { open, stat } from 'node:fs/promises'
    import { lookup } from 'node:dns/promises'
    export default async () => {
      await lookup('localhost')
      const file = await open('/home/8.img', 'r+')
      const { size } = await file.stat()
      return {
        size,
        read: async ({ offset }, into) => void (await file.read(into, 0, into.length, offset)),
        write: async ({ offset }, from) => void (await file.write(from, 0, from.length, offset)),
        flush: () => file.datasync(),
      }
    }
END`)
  for (const [what, args] of kinds) {
    await sh('echo "ARGS=$1" >/etc/ublk-ts/8.conf', args)
    await systemd.sh(
      'systemctl start ublk-ts@8; chrt -p "$(systemctl show --value -p MainPID ublk-ts@8)" >/dev/null',
    )
    await sh('dd if=/dev/urandom of=/tmp/8.data bs=64k count=32 status=none')
    await sh('dd if=/tmp/8.data of=/dev/ublkb8 bs=64k oflag=direct conv=fsync status=none', what)
    await sh('cmp -n 2097152 /tmp/8.data /dev/ublkb8', what)
    await sh('blkdiscard -f /dev/ublkb8 2>/dev/null || true')
    t.is(await systemd.sh('stat --format %a /run/ublk-ts'), '700\n')
    t.is(await systemd.sh('find /run/ublk-ts /dev/shm -name "*ublk*" -perm /077 -not -type d'), '')
    const log = await systemd.sh('journalctl --no-pager -q -u ublk-ts@8 -p warning 2>/dev/null || true')
    t.notRegex(log, /EPERM|EACCES|not permitted/, what)
    await systemd.sh('systemctl stop ublk-ts@8')
    t.deepEqual(nodes(), [], what)
  }
  await sh('losetup --detach /dev/loop7')
})

inSystemd('after a reload a disk that is stopped is waited for as before, until it is free', async t => {
  t.teardown(() => systemd.sh('systemctl stop ublk-ts@8'))
  await sh(
    'truncate --size 64M /tmp/9.img; echo "ARGS=--file /tmp/9.img --recovery reissue" >/etc/ublk-ts/8.conf',
  )
  await systemd.sh('systemctl start ublk-ts@8')
  await sh('mkfs.ext4 -q /dev/ublkb8; mkdir -p /tmp/9; mount /dev/ublkb8 /tmp/9')
  await systemd.sh('systemctl reload ublk-ts@8')
  const stopped = systemd.sh('systemctl stop ublk-ts@8')
  await sh('sleep 4; echo kept >/tmp/9/file; sync -f /tmp/9/file; umount /tmp/9')
  await stopped
  t.deepEqual(nodes(), [])
  t.is(await systemd.sh('systemctl show --value --property Result ublk-ts@8'), 'success\n')
  await sh('fsck.ext4 -fn /tmp/9.img; debugfs -R "cat file" /tmp/9.img 2>/dev/null | grep -qx kept')
})

inSystemd('udev makes the name of a disk a link, and a unit that systemd can wait for', async t => {
  t.teardown(() => systemd.sh('systemctl stop ublk-ts@9'))
  await sh('mkdir -p /etc/ublk-ts; echo "ARGS=--mem 64M --name db" >/etc/ublk-ts/9.conf')
  await systemd.sh('systemctl start ublk-ts@9; udevadm settle')
  t.regex(await systemd.sh('udevadm info --query=symlink /dev/ublkb9'), /(^| )ublk\/db( |\n)/)
  await systemd.sh('systemctl is-active dev-ublk-db.device')
  await systemd.sh(`echo 'size=32M' | sfdisk -q --label gpt /dev/ublk/db; udevadm settle`)
  t.is(await systemd.sh('readlink -f /dev/ublk/db-part1'), '/dev/ublkb9p1\n')
  await systemd.sh('udevadm trigger --action=change --settle /dev/ublkb9')
  t.is(await systemd.sh('readlink -f /dev/ublk/db'), '/dev/ublkb9\n')
  await systemd.sh('systemctl stop ublk-ts@9; udevadm settle')
  t.is(await systemd.sh('ls /dev/ublk 2>/dev/null || true'), '')
})

inSystemd('what is on a disk has its links and is listed, with an older udev, too', async t => {
  t.teardown(() => systemd.sh('systemctl stop ublk-ts@9'))
  await sh('mkdir -p /etc/ublk-ts; echo "ARGS=--mem 64M" >/etc/ublk-ts/9.conf')
  await systemd.sh('systemctl start ublk-ts@9')
  const uuid = '11111111-2222-4333-8444-555555555555'
  await systemd.sh('mkfs.ext4 -q -L ours -U "$1" /dev/ublkb9; udevadm settle', uuid)
  const target = async (link: string): Promise<string> =>
    (await systemd.sh('readlink -f "/dev/disk/$1"', link)).trim()
  t.is(await target(`by-uuid/${uuid}`), '/dev/ublkb9')
  t.is(await target('by-label/ours'), '/dev/ublkb9')
  t.is((await systemd.sh('lsblk -nro FSTYPE,LABEL,UUID /dev/ublkb9')).trim(), `ext4 ours ${uuid}`)
  await systemd.sh(`wipefs -qa /dev/ublkb9; udevadm settle
    echo 'size=32M, name="part of ours", uuid=${uuid}' | sfdisk -q --label gpt /dev/ublkb9
    udevadm settle; mkfs.ext4 -q -L inner /dev/ublkb9p1; udevadm settle`)
  t.is(await target(`by-partuuid/${uuid}`), '/dev/ublkb9p1')
  t.is(await target('by-partlabel/part\\x20of\\x20ours'), '/dev/ublkb9p1')
  t.is(await target('by-label/inner'), '/dev/ublkb9p1')
  t.is(await target('by-label/ours'), '/dev/disk/by-label/ours', 'it is no more')
  await systemd.sh('mkdir -p /tmp/9; mount /dev/disk/by-label/inner /tmp/9; umount /tmp/9')
  await systemd.sh('systemctl stop ublk-ts@9; udevadm settle')
  t.is(await systemd.sh('find /dev/disk -lname "*ublkb9*"'), '')
})
