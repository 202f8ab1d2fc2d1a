import test from 'ava'
import { leaveNothingBehind } from '../support/devices.js'
import { Server } from '../support/server.js'
import { completions, SHELLS } from '../support/shells.js'

leaveNothingBehind(test)

test('every shell completes the numbers and paths of the devices there are', async t => {
  const lines = ['show ', 'delete --wait 3 1', 'stop --timeout 3 /dev/ublkb']
  const wanted = [['12', '3'], ['12'], ['/dev/ublkb12', '/dev/ublkb3']]
  await Server.with('--null 1M --id 3', async () => {
    await Server.with('--null 1M --id 12', async () => {
      for (const shell of SHELLS) t.deepEqual(await completions(shell, lines), wanted, shell)
    })
  })
  for (const shell of SHELLS) t.deepEqual(await completions(shell, ['show ']), [[]], shell)
})
