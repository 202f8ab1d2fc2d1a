import test from 'ava'
import { leaveNothingBehind } from '../support/devices.js'
import { Server } from '../support/server.js'
import { completions, SHELLS } from '../support/shells.js'

leaveNothingBehind(test)

test('every shell completes the numbers, paths and names of the devices there are', async t => {
  const lines = ['show ', 'delete --wait 3 1', 'stop --timeout 3 /dev/ublkb', 'recover /dev/ublk/']
  const wanted = [['12', '3', 'db'], ['12'], ['/dev/ublkb12', '/dev/ublkb3'], ['/dev/ublk/db']]
  await Server.with('--null 1M --id 3 --name db', async () => {
    await Server.with('--null 1M --id 12', async () => {
      for (const shell of SHELLS) t.deepEqual(await completions(shell, lines), wanted, shell)
    })
  })
  for (const shell of SHELLS) t.deepEqual(await completions(shell, ['show ']), [[]], shell)
})
