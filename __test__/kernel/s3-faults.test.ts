// processors: 1
// seconds: 180
/**
 * Disks on an S3 server to which the way is bad: connections are cut, reset, stall, are half open, are narrow and slow, while a disk is
 * flushed, emptied, opened and moved. UBLK_TS_FAULTS=all has each of these meet each fault, which takes minutes. UBLK_TS_STOP sets for how
 * many seconds a server stands still that has lost its volume (default: 3); with UBLK_TS_NARROW set, much is sent through a very
 * narrow way, which takes minutes, too.
 */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { type StoredVolume, UblkDevice } from 'ublk-ts'
import { Detached, leaveNoServerBehind } from '../support/detached.js'
import { type Fault, FaultProxy } from '../support/fault-proxy.js'
import { result, run, sh, shell } from '../support/program.js'
import { until } from '../support/server.js'
import { Versitygw } from '../support/versitygw.js'

leaveNoServerBehind(test)

const STOP = Number(process.env['UBLK_TS_STOP'] ?? 3) * 1000
const DIR = mkdtempSync('/tmp/s3-faults-')
const URL = 's3://disks/a/volume'
const cache = (name: string): string => `${DIR}/${name}`
const words = (name: string): string =>
  `--s3 ${URL} --cache ${cache(name)} --cache-max 64M --volume-size 64M --fetch-timeout 100000`
const MIB = 2 ** 20

/** What goes wrong, and for how long. A connection that is half open is given up after half a minute. */
const FAULTS: Record<string, [fault: Fault, milliseconds: number]> = {
  cut: ['cut', 2000],
  reset: ['reset', 2000],
  stall: ['stall', 5000],
  'half-open': ['half-open', 1500],
  bandwidth: [{ bandwidth: 2 * MIB }, 4000],
  latency: [{ latency: 250 }, 4000],
}
/** These, or all. */
const faults = (...names: string[]): [name: string, fault: Fault, milliseconds: number][] =>
  Object.entries(FAULTS)
    .filter(([name]) => names.includes(name) || process.env['UBLK_TS_FAULTS'] === 'all')
    .map(([name, [fault, time]]) => [name, fault, time])
/** The longest that anything may take: a connection that is half open, and what comes after it. */
const BOUND = 75_000

test.beforeEach(() => sh('rm -rf "$1"; mkdir "$1"', DIR))
test.after.always(() => rmSync(DIR, { recursive: true, force: true }))

/** A server, and the way to it. */
class Field implements AsyncDisposable {
  private constructor(
    readonly server: Versitygw,
    readonly proxy: FaultProxy,
  ) {}

  static async make(): Promise<Field> {
    const server = new Versitygw()
    mkdirSync(`${DIR}/store`)
    await server.start(`${DIR}/store`)
    const proxy = await FaultProxy.start(Versitygw.PORT)
    Versitygw.announce(proxy.port)
    return new Field(server, proxy)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.proxy[Symbol.asyncDispose]()
    await this.server[Symbol.asyncDispose]()
  }
}

const said = (disk: Detached): string => disk.log.map(line => line.message ?? line.msg ?? '').join('\n')
const sum = async (path: string): Promise<string> =>
  await sh('dd if="$1" bs=1M iflag=direct status=none | sha256sum', path)

/** The most memory that a server has had, in MiB: all of it, with Node's own. */
const peak = ({ pid }: Detached): number =>
  Number(/^VmHWM:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024

/**
 * Numbers the blocks of a disk, each with its place and how often it was written, and flushes after each 32 of them. Prints, as
 * milliseconds, the longest time that a flush took.
 */
const LOAD = `
import os, random, sys, time
path, seed, stop = sys.argv[1:]
disk, longest, number, state = os.open(path, os.O_RDWR), 0, 0, {}
random.seed(int(seed))
while True:
    last = os.path.exists(stop)
    for _ in range(32):
        number += 1
        block = random.randrange(4096)
        state[block] = number
        os.pwrite(disk, (block << 32 | number).to_bytes(8, 'big') * 512, block * 4096)
    began = time.monotonic()
    os.fsync(disk)
    longest = max(longest, time.monotonic() - began)
    with open(stop + '.state', 'w') as out:
        out.write('\\n'.join(f'{block} {number}' for block, number in state.items()))
    if last:
        break
print(f'{longest * 1000:.0f}')
`

/** Fails if a block is older than what was flushed. */
const CHECK = `
import os, sys
path, state = sys.argv[1:]
disk = os.open(path, os.O_RDONLY)
for line in open(state):
    block, number = map(int, line.split())
    found = os.pread(disk, 4096, block * 4096)
    last = int.from_bytes(found[:8], 'big')
    if found != found[:8] * 512 or last >> 32 != block or last & 0xffffffff < number:
        sys.exit(f'block {block} is older than what was flushed: {found[:8].hex()}, not {number:x}')
`

class Load {
  readonly #stop: string
  readonly #ended: ReturnType<typeof result>

  private constructor(path: string, seed: number) {
    this.#stop = `${DIR}/stop-${seed}`
    for (const name of [this.#stop, `${this.#stop}.state`]) rmSync(name, { force: true })
    this.#ended = result(shell('exec python3 -c "$1" "$2" "$3" "$4"', LOAD, path, `${seed}`, this.#stop))
  }

  /** Starts it, and waits for its first flush. */
  static async start(path: string, seed: number): Promise<Load> {
    const load = new Load(path, seed)
    await until(() => existsSync(`${load.#stop}.state`), 'something is flushed')
    return load
  }

  /** The longest time of a flush, in milliseconds. */
  async end(): Promise<number> {
    await sh('touch "$1"', this.#stop)
    const { status, stdout, stderr } = await this.#ended
    if (status !== 0) throw new Error(stderr)
    return Number(stdout)
  }

  async check(path: string): Promise<void> {
    await sh('exec python3 -c "$1" "$2" "$3"', CHECK, path, `${this.#stop}.state`)
  }
}

/** Deletes the disk, and makes it again with an empty cache, as on another machine. */
async function elsewhere(t: ExecutionContext, disk: Detached, name: string): Promise<Detached> {
  const { status, stderr } = await run('delete', disk.path)
  t.is(status, 0, stderr)
  return await Detached.create(words(name))
}

test.serial(
  'what was flushed is there on another machine, whatever happened on the way meanwhile',
  async t => {
    if (!Versitygw.isBuilt(t)) return
    t.timeout(900_000)
    await using field = await Field.make()
    let disk = await Detached.create(words('0'))
    for (const [at, [name, fault, time]] of faults('cut', 'half-open').entries()) {
      const load = await Load.start(disk.path, at)
      await sleep(300)
      await field.proxy.during(fault, time)
      await sleep(500)
      const longest = await load.end()
      t.true(longest < BOUND, `${name}: ${longest} ms`)
      if (longest > 9000) t.regex(said(disk), /no answer for \d+ s|has failed for/, 'who waits is told why')
      const most = peak(disk)
      t.true(most < 500, `${most} MiB`)
      t.log(
        `${name} for ${time / 1000} s: the longest flush took ${longest} ms; memory: ${Math.round(most)} MiB`,
      )
      disk = await elsewhere(t, disk, `${at + 1}`)
      await load.check(disk.path)
    }
    t.is((await run('delete', disk.path)).status, 0)
  },
)

test.serial('what is emptied and deleted while the way is bad costs nothing that was written', async t => {
  if (!Versitygw.isBuilt(t)) return
  t.timeout(900_000)
  await using field = await Field.make()
  let disk = await Detached.create(`${words('0')} --durable local`)
  for (const [at, [name, fault, time]] of faults('reset', 'stall').entries()) {
    // Half of what each segment has is overwritten, so that it is emptied.
    const load = result(
      shell(
        `cd /tmp; fio --name=x --filename="$1" --direct=1 --ioengine=libaio --iodepth=8 --rw=randwrite --bs=64k --size=48m \\
         --norandommap --randseed="$2" --time_based --runtime=$(($3 + 4)) --rate_iops=400 --output-format=terse`,
        disk.path,
        `${at + 1}`,
        `${Math.ceil(time / 1000)}`,
      ),
    )
    await sleep(2000)
    await field.proxy.during(fault, time)
    const { status, stderr } = await load
    t.is(status, 0, `${name}: ${stderr}`)
    const expected = await sum(disk.path)
    const most = peak(disk)
    t.true(most < 500, `${most} MiB`)
    const { deletes, live, stored } = (await (await UblkDevice.open(disk.id)).volume()) as StoredVolume
    t.log(
      `${name}: ${deletes} deleted, ${live >> 20} of ${stored >> 20} MiB in use; memory: ${Math.round(most)} MiB`,
    )
    disk = await elsewhere(t, disk, `${at + 1}`)
    t.is(await sum(disk.path), expected, name)
  }
  t.is((await run('delete', disk.path)).status, 0)
})

test.serial('a volume is opened although the way is bad', async t => {
  if (!Versitygw.isBuilt(t)) return
  t.timeout(900_000)
  await using field = await Field.make()
  let disk = await Detached.create(words('0'))
  await sh('dd if=/dev/urandom of="$1" bs=1M count=40 oflag=direct conv=fsync status=none', disk.path)
  const expected = await sum(disk.path)
  for (const [at, [name, fault, time]] of faults('bandwidth', 'latency').entries()) {
    t.is((await run('delete', disk.path)).status, 0)
    const began = performance.now()
    const bad = field.proxy.during(fault, Math.min(time, 3000))
    disk = await Detached.create(words(`${at + 1}`)).catch(async ({ message }) => {
      // Whoever waits for a disk does not wait for as long as a server for a connection that is half open.
      t.regex(message, /status 1: ublk-ts: [^\n]+\n/)
      t.log(`${name}: ${message}`)
      return await Detached.create(words(`${at + 1}`))
    })
    const took = performance.now() - began
    await bad
    t.true(took < BOUND, `${name}: ${took} ms`)
    t.log(`${name}: opened in ${Math.round(took)} ms`)
    t.is(await sum(disk.path), expected, name)
  }
  t.is((await run('delete', disk.path)).status, 0)
})

test.serial('a disk moves to a volume although the way is bad, and is whole there', async t => {
  if (!Versitygw.isBuilt(t)) return
  t.timeout(900_000)
  await using field = await Field.make()
  for (const [at, [name, fault, time]] of faults('stall').entries()) {
    const disk = await Detached.create('--mem 32M --recovery reissue --write-cache on')
    await sh('dd if=/dev/urandom of="$1" bs=1M count=32 oflag=direct status=none', disk.path)
    const url = `s3://disks/moved-${at}`
    const more = ['--cache', cache(`moved-${at}`), '--cache-max', '64M', '--rate', '16M']
    const load = await Load.start(disk.path, at)
    const move = run('move', disk.path, url, ...more)
    await sleep(600)
    await field.proxy.during(fault, Math.min(time, 3000))
    const { status, stderr } = await move
    t.is(status, 0, `${name}: ${stderr}`)
    const longest = await load.end()
    t.true(longest < BOUND, `${name}: ${longest} ms`)
    t.log(`${name}: the longest flush took ${longest} ms`)
    const expected = await sum(disk.path)
    t.is((await run('delete', disk.path)).status, 0)
    const there = await Detached.create(`--s3 ${url} --cache ${cache(`there-${at}`)} --cache-max 64M`)
    await load.check(there.path)
    t.is(await sum(there.path), expected, name)
    t.is((await run('delete', there.path)).status, 0)
  }
})

test.serial(
  'a server that stood still while another took its volume loses nothing of that, and says one line',
  async t => {
    if (!Versitygw.isBuilt(t)) return
    t.timeout(300_000 + 2 * STOP)
    await using _field = await Field.make()
    const first = await Detached.create(words('first'))
    const before = await Load.start(first.path, 1)
    await sleep(1500)
    // In the middle of its work.
    await first.signal('SIGSTOP', { ends: false })
    const second = await Detached.create(words('second'))
    await before.check(second.path)
    const began = performance.now()
    const after = await Load.start(second.path, 2)
    // Much is overwritten, so that segments of the first one are emptied and deleted.
    for (let round = 0; round < 6; round++)
      await sh('dd if=/dev/urandom of="$1" bs=1M count=48 seek=16 oflag=direct status=none', second.path)
    await after.end()
    await sleep(Math.max(0, STOP - (performance.now() - began)))
    const { deletes } = (await (await UblkDevice.open(second.id)).volume()) as StoredVolume
    t.true(deletes > 0, 'segments were deleted meanwhile')
    await first.signal('SIGCONT', { ends: false })
    await t.throwsAsync(before.end(), { message: /Input\/output error/ })
    await until(() => /was opened by process/.test(said(first)), 'who lost the volume says so')
    const lines = said(first)
      .split('\n')
      .filter(line => /was opened by process/.test(line))
    t.is(lines.length, 1, said(first))
    t.regex(
      lines[0] ?? '',
      /^s3:\/\/disks\/a\/volume was opened by process \d+ on \S+, \d+ s ago: the disk has stopped/,
    )
    await t.throwsAsync(sum(first.path), { message: /Input\/output error/ })
    t.is((await run('delete', first.path)).status, 0)
    await after.check(second.path)
    const expected = await sum(second.path)
    const third = await elsewhere(t, second, 'third')
    await after.check(third.path)
    t.is(await sum(third.path), expected)
    t.is((await run('delete', third.path)).status, 0)
  },
)

const NARROW = process.env['UBLK_TS_NARROW'] ? test.serial : test.serial.skip
NARROW('what is written gets through a way that is too narrow for several segments at a time', async t => {
  if (!Versitygw.isBuilt(t)) return
  t.timeout(900_000)
  await using field = await Field.make()
  const disk = await Detached.create(words('0').replace('64M', '256M'))
  field.proxy.set({ bandwidth: 400_000 })
  const began = performance.now()
  await sh('dd if=/dev/urandom of="$1" bs=1M count=32 oflag=direct conv=fsync status=none', disk.path)
  const seconds = (performance.now() - began) / 1000
  t.log(
    `32 MiB at 400 kB/s: ${Math.round(seconds)} s; the narrow way alone takes ${Math.round((32 * MIB) / 400_000)} s`,
  )
  t.true(seconds < 300)
  field.proxy.set(undefined)
  const expected = await sum(disk.path)
  const there = await elsewhere(t, disk, '1')
  t.is(await sum(there.path), expected)
  t.is((await run('delete', there.path)).status, 0)
})
