import test from 'ava'
import { leaveNothingBehind } from '../support/devices.js'
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
