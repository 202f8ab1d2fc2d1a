// processors: 1 and 2
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { applyDiff, file, overlay, UblkDevice } from 'ublk-ts'
import { Detached, gone, leaveNoServerBehind } from '../support/detached.js'
import { errorsOf } from '../support/devices.js'
import { kernelHas } from '../support/modes.js'
import { onTwo, test } from '../support/processors.js'
import { result, run, sh, shell } from '../support/program.js'

leaveNoServerBehind(test)

const SILENT = { status: 0, signal: null, stdout: '', stderr: '' }
const DIR = mkdtempSync('/dev/shm/snapshot-')
const BASE = join(DIR, 'base')
const at = (name: string): string => join(DIR, name)

test.before('a base', () => sh('truncate -s 24M "$1"', BASE))
test.after.always(() => rmSync(DIR, { recursive: true }))

/** fio writes at a depth of 64 and checks until there is a file `stop`; the longest request of each round, in µs. */
const LOAD = `cd "$2"; rm -f stop; while [ ! -e stop ]; do
    fio --name=x --filename="$1" --direct=1 --ioengine=libaio --iodepth=64 --rw=randwrite --bsrange=512-64k --size=12m \
      --verify=crc32c --verify_fatal=1 --randrepeat=0 --verify_state_save=0 --fsync=64 --output-format=json >fio.out
    node -p 'let j = JSON.parse(require("fs").readFileSync("fio.out")).jobs[0]; Math.round(j.write.clat_ns.max / 1000)'
  done`

async function longest(
  load: Promise<{ status: number | null; stdout: string; stderr: string }>,
): Promise<number> {
  await sh('touch "$1/stop"', DIR)
  const { status, stdout, stderr } = await load
  if (status !== 0) throw new Error(stderr)
  return Math.max(...stdout.trim().split('\n').map(Number))
}

onTwo('snapshots under a checked load fail no request, and keep what they have', async t => {
  await using disk = await UblkDevice.create({
    backend: overlay(file(BASE), { upper: at('vm1.cow') }),
    queues: 2,
    depth: 64,
  })
  const errors = errorsOf(disk)
  const without = await (async () => {
    const load = result(shell(LOAD, disk.path, DIR))
    await sh('sleep 1.5')
    return await longest(load)
  })()
  const load = result(shell(LOAD, disk.path, DIR))
  const times: number[] = []
  for (const number of [1, 2, 3, 4]) {
    await sh('sleep 0.3')
    const began = performance.now()
    await disk.snapshot(`s${number}`)
    times.push(Math.round(performance.now() - began))
  }
  const during = await longest(load)
  t.log(`longest request: ${without} µs without snapshots, ${during} µs with 4; they took ${times} ms`)
  t.deepEqual(errors, [])
  const layers = await disk.layers()
  t.deepEqual(
    layers.map(({ path, written }) => [path, written]),
    [...[1, 2, 3, 4].map(number => [at(`vm1.cow.s${number}`), false]), [at('vm1.cow'), true]],
  )
  // They stay as they are, whatever is written to the disk or to a fork.
  const sum = async (path: string): Promise<string> =>
    await sh('dd if="$1" bs=1M iflag=direct status=none | sha256sum', path)
  const now = await sum(disk.path)
  await disk.snapshot('now')
  await sh('dd if=/dev/urandom of="$1" bs=1M count=8 oflag=direct status=none', disk.path)
  {
    await using fork = await UblkDevice.create({
      backend: overlay(file(BASE), { upper: at('vm2.cow'), snapshot: at('vm1.cow.now') }),
    })
    t.is(await sum(fork.path), now)
    await sh('dd if=/dev/urandom of="$1" bs=1M count=4 seek=4 oflag=direct status=none', fork.path)
    t.not(await sum(fork.path), now)
    await fork.reset()
    t.is(await sum(fork.path), now)
  }
  t.not(await sum(disk.path), now)
  await disk.reset()
  t.is(await sum(disk.path), now)
})

const WAYS = [
  { transport: 'per-io', copy: 'zero' },
  { transport: 'batch', copy: 'zero' },
  { transport: 'batch', copy: 'copy', queues: 2 },
  { transport: 'per-io', copy: 'copy', queues: 2, threads: 'shared' },
] as const

onTwo('snapshots and resets are the same with each transport, copy mode and kind of thread', async t => {
  for (const [number, way] of WAYS.filter(kernelHas).entries()) {
    const upper = at(`way${number}.cow`)
    const sum = async (path: string): Promise<string> => await sh('sha256sum <"$1"', path)
    let begun: string
    {
      await using disk = await UblkDevice.create({ backend: overlay(file(BASE), { upper }), ...way })
      const errors = errorsOf(disk)
      const load = result(
        shell(
          `cd "$2"; exec fio --name=x --filename="$1" --direct=1 --ioengine=libaio --iodepth=32 --rw=randwrite --bsrange=512-64k \\
             --size=12m --io_size=8m --verify=crc32c --verify_fatal=1 --verify_state_save=0 --output-format=terse`,
          disk.path,
          DIR,
        ),
      )
      await sh('sleep 0.1')
      await disk.snapshot('during')
      const { status, stderr } = await load
      t.is(status, 0, stderr)
      begun = await sum(disk.path)
      await disk.snapshot('after')
      await sh('dd if=/dev/urandom of="$1" bs=1M count=4 oflag=direct status=none', disk.path)
      await disk.reset()
      t.is(await sum(disk.path), begun, JSON.stringify(way))
      await sh('dd if=/dev/urandom of="$1" bs=1M count=4 oflag=direct status=none', disk.path)
      t.deepEqual(errors, [])
    }
    await using again = await UblkDevice.create({
      backend: overlay(file(BASE), { upper: at(`fork${number}.cow`), snapshot: `${upper}.after` }),
      ...way,
    })
    t.is(await sum(again.path), begun)
  }
})

test('an overlay that records its changes has snapshots, resets and layers, too', async t => {
  const disk = await Detached.create(`--file ${BASE} --overlay ${at('both.cow')} --track ${at('both.map')}`)
  t.deepEqual(await run('snapshot', disk.path, 'one'), SILENT)
  t.deepEqual(await run('checkpoint', disk.path, 'then'), SILENT)
  const changed = async (): Promise<number> =>
    (await (await UblkDevice.open(disk.id)).changed({ since: 'then' })).bytes
  t.is(await changed(), 0)
  await sh('dd if=/dev/urandom of="$1" bs=1M count=1 oflag=direct status=none', disk.path)
  t.is(await changed(), 2 ** 20)
  t.regex((await run('show', '-o', 'LAYERS', disk.path)).stdout, /both\.cow\.one .*\n.*both\.cow \(/)
  t.deepEqual(await run('reset', disk.path), SILENT)
  t.is(await changed(), 24 * 2 ** 20, 'a reset changes everything')
  t.is(await sh('sha256sum <"$1"', disk.path), await sh('sha256sum <"$1"', BASE))
  t.deepEqual(await run('flatten', disk.path), SILENT)
  t.is((await (await UblkDevice.open(disk.id)).layers()).length, 1)
  t.deepEqual(await run('delete', disk.path), SILENT)
})

onTwo(
  'a snapshot of a disk that records its changes is a checkpoint of the same instant, also for the next server',
  async t => {
    const words = `--file ${BASE} --overlay ${at('t.cow')} --track ${at('t.map')} --queues 2 --recovery reissue`
    let disk = await Detached.create(words)
    const load = result(shell(LOAD, disk.path, DIR))
    const names = ['first', 'second']
    for (const name of names) {
      await sh('sleep 0.4')
      t.deepEqual(await run('snapshot', disk.path, name), SILENT)
    }
    t.regex(
      (await run('snapshot', disk.path, 'first')).stderr,
      /there is a checkpoint first already; choose another/,
    )
    await longest(load)
    for (const name of names) {
      await using snapshot = await UblkDevice.create({
        backend: overlay(file(BASE), { upper: at(`t.cow.${name}`) }),
        readOnly: true,
      })
      await sh('dd if="$1" of="$2/$3.raw" bs=1M conv=sparse status=none', snapshot.path, DIR, name)
    }
    // A diff since a snapshot, applied to a copy of the snapshot, gives the disk.
    const check = async (): Promise<void> => {
      const now = await sh('sha256sum <"$1"', disk.path)
      const served = await UblkDevice.open(disk.id)
      for (const name of names) {
        await sh('cp --sparse=always "$1/$2.raw" "$1/copy"; rm -f "$1/diff"', DIR, name)
        await served.diff({ since: name, out: at('diff') })
        await applyDiff(at('diff'), at('copy'))
        t.is(await sh('sha256sum <"$1"', at('copy')), now, name)
      }
      t.deepEqual(
        (await served.checkpoints()).map(({ name, known }) => [name, known]),
        names.map(name => [name, true]),
      )
    }
    await check()
    t.is((await run('upgrade', disk.path)).status, 0)
    await sh('dd if=/dev/urandom of="$1" bs=1M count=1 seek=20 oflag=direct status=none', disk.path)
    await check()
    t.deepEqual(await run('delete', disk.path), SILENT)
    disk = await Detached.create(words)
    await check()
    t.deepEqual(await run('delete', disk.path), SILENT)
  },
)

onTwo('a server that is killed around a snapshot loses nothing', async t => {
  const disk = await Detached.create(
    `--file ${BASE} --overlay ${at('killed.cow')} --recovery reissue --queues 2`,
  )
  const load = result(shell(LOAD, disk.path, DIR))
  await sh('sleep 0.3')
  for (const round of [0, 1, 2, 3]) {
    const handle = await UblkDevice.open(disk.id)
    const snapshot = handle.snapshot(`s${round}`).catch(() => {})
    await sleep(round * 9)
    await disk.signal('SIGKILL')
    await snapshot
    t.deepEqual(await run('recover', disk.path), { ...SILENT, stdout: `${disk.path}\n` })
  }
  // Those that are there are layers of the disk, and another process can go on with all of them.
  const { pid } = disk
  const upgraded = await run('upgrade', disk.path)
  t.is(upgraded.status, 0, upgraded.stderr)
  await gone(pid)
  t.deepEqual(await run('snapshot', `${disk.id}`, 'last'), SILENT)
  const layers = await (await UblkDevice.open(disk.id)).layers()
  const there = [0, 1, 2, 3].filter(round => existsSync(at(`killed.cow.s${round}`)))
  t.log(`${there.length} of 4 snapshots were made before the server was killed`)
  t.is(layers.at(-2)?.path, at('killed.cow.last'))
  t.true(layers.length >= 2 && layers.length <= there.length + 2)
  t.true((await longest(load)) > 0)
  t.deepEqual(await run('delete', disk.path), SILENT)
})

test('snapshots and resets on the command line, and what is refused', async t => {
  const upper = at('line.cow')
  const disk = await Detached.create(`--file ${BASE} --overlay ${upper} --recovery reissue`)
  t.deepEqual(await run('snapshot', disk.path, 'empty'), SILENT)
  const { stdout } = await run('show', '--output', 'LAYERS', disk.path)
  t.regex(stdout, /^LAYERS {2}\S+line\.cow\.empty \(\S+, a snapshot\)\n {8}\S+line\.cow \(\S+\)\n$/)
  const refused = async (message: RegExp, ...words: string[]): Promise<void> => {
    const { status, stdout, stderr } = await run(...words)
    t.not(status, 0, words.join(' '))
    t.is(stdout, '')
    t.regex(stderr, message)
  }
  await sh('dd if=/dev/urandom of="$1" bs=4k seek=3 count=2 oflag=direct status=none', disk.path)
  const changed = await run('changed', disk.path, '--since', 'empty')
  t.deepEqual(changed, { ...SILENT, stdout: '12288+8192\n' })
  await refused(
    /the snapshot empty is the last one; make another one/,
    'diff',
    disk.path,
    '--since',
    'empty',
    '--out',
    at('x'),
  )
  await refused(/^ublk-ts: "a\/b" is no name of a snapshot/, 'snapshot', disk.path, 'a/b')
  await refused(/line\.cow\.empty exists already/, 'snapshot', disk.path, 'empty')
  await sh('mkfs.ext4 -q "$1"; mkdir "$2"; mount "$1" "$2"; echo one >"$2"/x', disk.path, at('mnt'))
  await refused(/is in use \(.*mounted/, 'reset', disk.path)
  await sh('umount "$1"', at('mnt'))
  t.deepEqual(await run('reset', disk.path), SILENT)
  const zeroes = await sh('head -c 24M /dev/zero | sha256sum')
  t.is(await sh('sha256sum <"$1"', disk.path), zeroes)
  t.deepEqual(await run('delete', disk.path), SILENT)
  const plain = await Detached.create('--mem 8M')
  await refused(/this disk has no snapshots/, 'snapshot', plain.path, 'one')
  await refused(/this disk cannot be reset/, 'reset', plain.path)
  t.deepEqual(await run('delete', plain.path), SILENT)
  const memory = await Detached.create(`--file ${BASE} --overlay memory --recovery reissue`)
  await refused(/is in memory: it has no snapshots/, 'snapshot', memory.path, 'one')
  t.deepEqual(await run('delete', memory.path), SILENT)
  await refused(/there is no ublk device 0/, 'snapshot', '0', 'one')
  t.true(readFileSync(upper).length > 0)
})
