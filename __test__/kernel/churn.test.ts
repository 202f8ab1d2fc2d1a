/** Devices in random order, for a short time; UBLK_TS_CHURN_SECONDS makes it longer, UBLK_TS_SEED replays it. */
import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import test from 'ava'
import { leaveNothingBehind } from '../support/devices.js'
import { FLAGS, result } from '../support/program.js'

leaveNothingBehind(test)

const SECONDS = Number(process.env['UBLK_TS_CHURN_SECONDS'] ?? 20)
const CHURN = fileURLToPath(new URL('../soak/churn.js', import.meta.url))

test('devices made, killed, recovered, resized and deleted in random order leave nothing behind', async t => {
  t.timeout(SECONDS * 1000 + 240_000)
  const words = [CHURN, '--seconds', `${SECONDS}`, '--actors', '2']
  const { status, stdout, stderr } = await result(spawn(process.execPath, [...FLAGS, ...words]))
  if (status !== 0) t.log(stdout)
  else t.log(stdout.split('\n', 1)[0])
  t.is(status, 0, stderr)
})
