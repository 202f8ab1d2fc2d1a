import test from 'ava'
import { leaveNothingBehind, nodes } from '../support/devices.js'
import { sh } from '../support/program.js'
import { until } from '../support/server.js'
import { inLab, Systemd } from '../support/systemd.js'

leaveNothingBehind(test)
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

inSystemd('who is in the group ublk may use the driver', async t => {
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
