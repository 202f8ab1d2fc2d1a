// processors: 2
// seconds: 60
/**
 * Mirrors: sides that fail, servers that are killed. UBLK_TS_KILLS sets how often (default: 4).
 */
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import test from 'ava'
import { faults, file, memory, mirror, UblkDevice } from 'ublk-ts'
import { Detached, leaveNoServerBehind } from '../support/detached.js'
import { verify } from '../support/nbd-server.js'
import { run, sh } from '../support/program.js'
import { SLOWNESS, until } from '../support/server.js'
import { verify as verifyAll } from '../support/verify.js'

leaveNoServerBehind(test)

const KILLS = Number(process.env['UBLK_TS_KILLS'] ?? 4)
const DIR = mkdtempSync('/dev/shm/mirror-')
const [A, B, MAP] = ['a', 'b', 'map'].map(name => `${DIR}/${name}`) as [string, string, string]
const SILENT = { status: 0, signal: null, stdout: '', stderr: '' }

test.beforeEach(() => sh('rm -f "$1"/*; truncate -s 32M "$1/a" "$1/b"', DIR))
test.after.always(() => rmSync(DIR, { recursive: true, force: true }))

const equal = async (disk: UblkDevice): Promise<void> => {
  await until(
    async () => (await disk.sides()).every(({ state }) => state === 'current'),
    'the sides are equal',
  )
}

test.serial('a mirror is verified over kills of its server, and its sides are equal', async t => {
  t.timeout(300_000 + KILLS * 10_000 * SLOWNESS)
  const disk = await Detached.create(`--mirror ${A},${B} --bitmap ${MAP} --recovery reissue --queues 2`)
  const device = await UblkDevice.open(disk.id)
  let done = false
  const rounds = async (): Promise<string> => {
    let said = ''
    while (!done && said === '') said = await verify(disk.path, '--loops=2')
    return said
  }
  const load = rounds()
  for (let kill = 0; kill < KILLS; kill++) {
    await sleep(200 + Math.random() * 800)
    await disk.signal('SIGKILL')
    t.deepEqual(await run('recover', disk.path), { ...SILENT, stdout: `${disk.path}\n` })
  }
  t.is((await run('upgrade', disk.path)).status, 0)
  done = true
  t.is(await load, '')
  await equal(device)
  t.deepEqual(
    (await device.sides()).map(({ name, missing }) => [name, missing]),
    [
      [A, 0],
      [B, 0],
    ],
  )
  t.is((await device.totals()).errors, 0)
  t.deepEqual(await run('delete', disk.path), SILENT)
  await sh('cmp "$1" "$2"', A, B)
})

test.serial('a side that fails is dropped and told, and brought back', async t => {
  const backend = mirror([file(A), faults(file(B), [])], { bitmap: MAP })
  await using disk = await UblkDevice.create({ backend })
  const told: string[] = []
  disk.on('error', error => told.push(error.message))
  await equal(disk)
  await disk.faults.set([{ op: 'write', errno: 'EIO' }])
  await verifyAll(disk.path, ['random-16'])
  t.like(await disk.sides(), [{ state: 'current' }, { state: 'failed' }])
  t.regex(told.join('\n'), /side 2 of the mirror, .*\/b, has failed .* and is used no more/)
  await disk.faults.set([])
  const load = verifyAll(disk.path, ['random-16'])
  await disk.resync()
  await load
  await equal(disk)
  t.is(disk.totals().errors, 0)
  await sh('sync "$1"; cmp "$2" "$3"', disk.path, A, B)
})

test.serial('mirrors of memory, and of memory and a file, are verified', async t => {
  for (const backend of [
    mirror([memory('16M'), memory('16M'), memory('16M')]),
    mirror([memory('32M'), file(A)], { bitmap: MAP }),
  ]) {
    await using disk = await UblkDevice.create({ backend })
    await verifyAll(disk.path, ['sequential-128', 'random-128'], '16m')
    await equal(disk)
    await verifyAll(disk.path, ['random-16'], '16m')
    t.is(disk.totals().errors, 0)
  }
})

test.serial('a mirror without a map, or with another one, is refused in a line', async t => {
  await t.throwsAsync(UblkDevice.create({ backend: mirror([file(A), file(B)]) }), {
    message: 'a mirror of disks that outlive their server needs a map',
  })
  await (await UblkDevice.create({ backend: mirror([file(A), file(B)], { bitmap: MAP }) })).delete()
  t.true(existsSync(MAP))
  await t.throwsAsync(UblkDevice.create({ backend: mirror([file(B), file(A)], { bitmap: MAP }) }), {
    message: /is of a mirror of other disks, or in another order$/,
  })
})
