// processors: 1 and 2
// seconds: 55
import { existsSync, mkdtempSync, renameSync, writeFileSync } from 'node:fs'
import { createConnection } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { ExecutionContext } from 'ava'
import { ask, Detached, gone, leaveNoServerBehind, leftovers, RUN_DIR } from '../support/detached.js'
import { nodes } from '../support/devices.js'
import { kernelHas } from '../support/modes.js'
import { onTwo, test } from '../support/processors.js'
import { type Result, result, run, sh, shell } from '../support/program.js'
import { Server, until } from '../support/server.js'

leaveNoServerBehind(test)

const SILENT = { status: 0, signal: null, stdout: '', stderr: '' }
const IN_FILE = fileURLToPath(new URL('../backends/in-file.js', import.meta.url))
const SIZE = 32 * 2 ** 20

/** How often a disk is upgraded under load. */
const ROUNDS = Number(process.env['UBLK_TS_UPGRADES'] ?? 4)

/** Writes and verifies until it is told to stop. */
class Load {
  readonly #stop = join(mkdtempSync(join(tmpdir(), 'load-')), 'stop')
  readonly #ended: Promise<Result>

  constructor(t: ExecutionContext, path: string, depth = 16) {
    // Else it would use the disk of a test that has failed for ever. It ends when that is deleted.
    t.teardown(() => writeFileSync(this.#stop, ''))
    this.#ended = result(
      shell(
        `cd /tmp; while [ ! -e "$2" ]; do
           fio --name=x --filename="$1" --direct=1 --ioengine=libaio --iodepth=$3 --rw=randwrite --bs=4k --size=4m \
             --verify=crc32c --verify_fatal=1 --verify_state_save=0 --output-format=terse >/tmp/fio.out
         done`,
        path,
        this.#stop,
        `${depth}`,
      ),
    )
  }

  async end(): Promise<Result> {
    await sh('touch "$1"', this.#stop)
    return await this.#ended
  }
}

const BATCH = '--transport batch --depth 256'

for (const [kind, words] of [
  ['in memory', () => `--mem ${SIZE}`],
  ['in memory, with batches', () => `--mem ${SIZE} ${BATCH}`],
  ['in memory, with batches for several threads', () => `--mem ${SIZE} ${BATCH} --threads-per-queue 2`],
  ['in a file, with batches', (dir: string) => `--file ${dir}/disk ${BATCH}`],
  [
    'written in JavaScript',
    (dir: string) =>
      `--worker ${IN_FILE} --worker-options ${JSON.stringify({ path: `${dir}/disk`, size: SIZE })}`,
  ],
] as const) {
  const batches = kind.includes('batches')
  if (batches && !kernelHas({ transport: 'batch', copy: 'copy' })) continue
  onTwo(`a disk ${kind} is upgraded under load, again and again, and no request fails`, async t => {
    const dir = mkdtempSync(join(tmpdir(), 'upgrade-'))
    await sh('truncate -s "$2" "$1/disk"', dir, `${SIZE}`)
    const disk = await Detached.create(`${words(dir)} --recovery reissue --queues 2`)
    const load = new Load(t, disk.path, batches ? 256 : 16)
    const pauses: number[] = []
    for (let round = 0; round < ROUNDS; round++) {
      const { pid } = disk
      const { status, stdout, stderr } = await run('upgrade', disk.path, '--json')
      t.is(status, 0, stderr)
      const said = JSON.parse(stdout)
      t.deepEqual([said.id, said['old-pid'], said.pid], [disk.id, pid, disk.pid])
      t.not(disk.pid, pid)
      pauses.push(said['paused-ms'])
      await gone(pid)
    }
    t.deepEqual(await load.end(), SILENT)
    t.log(`requests waited for up to ${Math.max(...pauses)} ms`)
    t.deepEqual(await run('delete', disk.path), SILENT)
  })
}

test('a disk whose requests would fail is not upgraded, but served as before', async t => {
  if (!kernelHas({ transport: 'batch', copy: 'copy' })) {
    t.pass('this kernel has no batches')
    return
  }
  const disk = await Detached.create(`--mem ${SIZE} --recovery requeue ${BATCH}`)
  const load = new Load(t, disk.path, 256)
  const { pid } = disk
  const { status, stderr } = await run('upgrade', disk.path)
  t.is(status, 1)
  t.regex(
    stderr,
    /^ublk-ts: [^\n]*with transport batch and recovery requeue[^\n]*reissue[^\n]*per-io[^\n]*\n$/,
  )
  t.is(disk.pid, pid)
  t.deepEqual(await load.end(), SILENT)
  t.deepEqual(await run('delete', disk.path), SILENT)
})

test('a server in the foreground ends well when it is upgraded, and says who serves the disk', async t => {
  const server = await Server.start('--mem 16M --recovery reissue')
  await sh('echo hello | dd of="$1" conv=fsync status=none', server.path)
  const { stdout } = await run('upgrade', '--verbose', server.path)
  t.regex(stdout, /^device \d+ is served by process \d+; requests waited for [\d.]+ ms\n$/)
  const disk = new Detached(server.path)
  const { status, stderr } = await server.ended
  t.is(status, 0)
  t.is(stderr, `ublk-ts: ${disk.path} is served by process ${disk.pid} now\n`)
  t.is(await sh('head -c 5 "$1"', disk.path), 'hello')
  t.is((await run('list', '-n', '-o', 'log')).stdout, `${RUN_DIR}/${disk.id}.log\n`)
  t.deepEqual(await run('delete', disk.path), SILENT)
})

test('what cannot be upgraded is refused for its reason, and served as before', async t => {
  const plain = await Detached.create('--mem 16M')
  const refused = async (name: string, why: RegExp): Promise<void> => {
    const { status, stderr } = await run('upgrade', name)
    t.is(status, 1)
    t.regex(stderr, /^ublk-ts: [^\n]*\n$/)
    t.regex(stderr, why)
  }
  await refused(plain.path, /the device cannot be handed over; make it with recovery/)
  await refused('77', /there is no ublk device 77/)
  await sh('echo hello | dd of="$1" conv=fsync status=none', plain.path)
  await plain.signal('SIGKILL')
  await refused(plain.path, /device \d+ has no server/)
  t.deepEqual(await run('delete', plain.path), SILENT)
})

test('an upgrade whose backend cannot be loaded leaves the old server at work', async t => {
  const dir = mkdtempSync(join(tmpdir(), 'upgrade-'))
  await sh('truncate -s "$3" "$1/disk"; cp "$2" "$1/module.mjs"', dir, IN_FILE, `${SIZE}`)
  await sh('ln -s "$2" "$1/node_modules"', dir, fileURLToPath(new URL('../../node_modules', import.meta.url)))
  for (const [words, file] of [
    [`--worker ${IN_FILE} --worker-options ${JSON.stringify({ path: `${dir}/disk`, size: SIZE })}`, 'disk'],
    [`--file ${dir}/disk`, 'disk'],
  ] as const) {
    const disk = await Detached.create(`${words} --recovery reissue`)
    await sh('echo hello | dd of="$1" conv=fsync status=none', disk.path)
    const { pid } = disk
    renameSync(`${dir}/${file}`, `${dir}/away`)
    const { status, stderr } = await run('upgrade', disk.path)
    t.is(status, 1)
    t.regex(stderr, /^ublk-ts: [^\n]*(ENOENT|No such file)[^\n]*\n$/)
    renameSync(`${dir}/away`, `${dir}/${file}`)
    t.is(disk.pid, pid)
    t.is(await sh('dd if="$1" bs=512 count=1 iflag=direct status=none | head -c 5', disk.path), 'hello')
    t.is((await run('upgrade', disk.path)).status, 0, 'and it can be upgraded later')
    t.deepEqual(await run('delete', disk.path), SILENT)
    await until(() => leftovers().length === 0, 'the server ends')
  }
})

/** Has a server let go of its device, and gives what ends the connection. */
async function quiesce(id: number): Promise<() => void> {
  const socket = createConnection(`${RUN_DIR}/${id}.sock`)
  socket.write('{"id":1,"method":"quiesce","params":{}}\n')
  const answer = await new Promise(resolve => socket.setEncoding('utf8').once('data', resolve))
  if (answer !== '{"id":1,"result":null}\n') throw new Error(String(answer))
  return () => socket.destroy()
}

test('a server takes its device back when whoever wanted it is gone, or too slow', async t => {
  const disk = await Detached.create('--mem 16M --recovery reissue')
  await sh('echo hello | dd of="$1" conv=fsync status=none', disk.path)
  const state = async (): Promise<string> => (await run('list', '-n', '-o', 'state')).stdout
  const end = await quiesce(disk.id)
  t.is(await state(), 'quiesced\n')
  t.regex(await ask(disk.id, '{"id":2,"method":"quiesce","params":{}}\n'), /is being handed over/)
  const reading = sh('dd if="$1" bs=512 count=1 iflag=direct status=none | head -c 5', disk.path)
  end()
  t.is(await reading, 'hello')
  t.is(await state(), 'live\n')

  const slow = await quiesce(disk.id)
  const waiting = sh('dd if="$1" bs=512 count=1 iflag=direct status=none | head -c 5', disk.path)
  t.is(await waiting, 'hello')
  t.regex(await ask(disk.id, '{"id":2,"method":"release","params":{}}\n'), /was not handed over/)
  slow()
  t.is((await run('upgrade', disk.path)).status, 0)
  t.deepEqual(await run('delete', disk.path), SILENT)
})

test('a server that is interrupted or deleted while it waits to be succeeded leaves nothing', async t => {
  for (const end of [
    async (disk: Detached) => await disk.signal('SIGTERM'),
    async (disk: Detached) => t.deepEqual(await run('delete', disk.path), SILENT),
  ]) {
    const disk = await Detached.create('--mem 16M --recovery reissue')
    const close = await quiesce(disk.id)
    await end(disk)
    close()
    await until(() => leftovers().length === 0, 'the server ends')
    t.deepEqual(nodes(), [])
  }
})

onTwo('a new server that is killed at any moment of an upgrade costs no request', async t => {
  const disk = await Detached.create(`--mem ${SIZE} --recovery reissue --auto-restart`)
  const load = new Load(t, disk.path)
  // A supervisor restarts five servers within a minute, and no more.
  for (const delay of [250, 400, 500, 600, 750]) {
    const before = new Set(servers())
    const upgrade = run('upgrade', `${disk.id}`)
    let ended: Result | undefined
    void upgrade.then(result => {
      ended = result
    })
    const next = (): number | undefined => servers().find(pid => !before.has(pid))
    await until(() => next() !== undefined || ended !== undefined, 'the new server is there')
    const pid = next()
    if (pid === undefined) return t.fail(`no new server: ${JSON.stringify(ended)}`)
    await sleep(delay)
    try {
      process.kill(pid, 'SIGKILL')
    } catch {} // It has failed already.
    await upgrade
    await until(
      async () => (await run('list', '-n', '-o', 'state,pid')).stdout === `live  ${disk.pid}\n`,
      'it is served',
    )
    if (servers().length < 2) t.fail('a supervisor or a server is missing')
  }
  t.deepEqual(await load.end(), SILENT)
  t.deepEqual(await run('delete', disk.path), SILENT)
})

/** The processes of servers and supervisors. */
function servers(): number[] {
  return leftovers().flatMap(name => (name.startsWith('process ') ? [Number(name.slice(8))] : []))
}

test('a supervisor follows the disk to its new server', async t => {
  const disk = await Detached.create('--mem 16M --recovery reissue --auto-restart')
  await sh('echo hello | dd of="$1" conv=fsync status=none', disk.path)
  t.is((await run('upgrade', disk.path)).status, 0)
  const { pid } = disk
  await disk.signal('SIGKILL')
  await until(() => disk.pid !== pid, 'another takes over')
  t.is(await sh('head -c 5 "$1"', disk.path), 'hello')
  t.is((await run('upgrade', disk.path)).status, 0)
  t.deepEqual(await run('delete', disk.path), SILENT)
  await until(() => leftovers().length === 0, 'server and supervisor end')
  t.false(existsSync(disk.recordPath))
})

test('resize gives a disk another size through its server, and refuses to cut off its users', async t => {
  const disk = await Detached.create('--mem 16M --recovery reissue')
  t.deepEqual(await run('resize', disk.path, '32M'), SILENT)
  t.is(await sh('blockdev --getsize64 "$1"', disk.path), '33554432\n')
  await disk.signal('SIGKILL')
  t.is((await run('recover', disk.path)).status, 0)
  t.is(await sh('blockdev --getsize64 "$1"', disk.path), '33554432\n')
  await sh('mkfs.ext4 -q "$1"; mkdir -p /tmp/r; mount "$1" /tmp/r', disk.path)
  t.teardown(() => sh('! mountpoint -q /tmp/r || umount /tmp/r'))
  const refused = await run('resize', disk.path, '16M')
  t.is(refused.status, 1)
  t.regex(refused.stderr, /^ublk-ts: [^\n]*mounted on \/tmp\/r[^\n]*\n$/)
  await sh('umount /tmp/r')
  t.deepEqual(await run('resize', disk.path, '16M'), SILENT)
  for (const [size, why] of [
    ['1000', /multiple/],
    ['0', /size/],
  ] as const) {
    const wrong = await run('resize', disk.path, size)
    t.not(wrong.status, 0)
    t.regex(wrong.stderr, why)
  }
  t.deepEqual(await run('delete', disk.path), SILENT)
})
