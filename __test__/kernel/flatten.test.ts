// processors: 1 and 2
// seconds: 50
/**
 * Overlays that need their base no more, and forks: while a load is checked, and through a kill.
 */
import { existsSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import {
  commitOverlay,
  type DiskLayer,
  file,
  lazy,
  memory,
  type OverlayBackend,
  overlay,
  UblkDevice,
} from 'ublk-ts'
import { Detached, leaveNoServerBehind } from '../support/detached.js'
import { errorsOf } from '../support/devices.js'
import { ImageServer } from '../support/image-server.js'
import { LayersDir, LOAD, restOf, sum } from '../support/layers-dir.js'
import { onTwo, test } from '../support/processors.js'
import { result, run, sh, shell } from '../support/program.js'
import { until } from '../support/server.js'

leaveNoServerBehind(test)

const SILENT = { status: 0, signal: null, stdout: '', stderr: '' }
const DIR = new LayersDir(test, 'flatten')
const BASE = DIR.base
const at = (name: string): string => DIR.at(name)

onTwo('a disk is flattened under a checked load and through kills, and needs its base no more', async t => {
  const expected = await restOf(BASE)
  const disk = await Detached.create(
    `--file ${BASE} --overlay ${at('vm1.cow')} --recovery reissue --queues 2`,
  )
  t.deepEqual(await run('snapshot', disk.path, 'one'), SILENT)
  const handle = await UblkDevice.open(disk.id)
  t.is(await handle.flattening(), undefined)
  const load = result(shell(LOAD, disk.path, DIR.path))
  const flatten = run('flatten', disk.path, '--rate', '4M')
  await until(async () => ((await handle.flattening())?.done ?? 0) > 0, 'a part is copied')
  t.regex((await run('show', '-o', 'FLATTENED', disk.path)).stdout, /^FLATTENED +\d+%\n$/)
  const refused = await run('snapshot', disk.path, 'two')
  t.regex(refused.stderr, /^ublk-ts: the disk is being flattened; .*\n$/)
  await disk.signal('SIGKILL')
  const { status, stderr } = await flatten
  t.not(status, 0)
  t.regex(stderr, /^ublk-ts: [^\n]+\n$/)
  t.deepEqual(await run('recover', disk.path), { ...SILENT, stdout: `${disk.path}\n` })
  t.is((await handle.layers()).length, 2)
  const stats = JSON.parse((await run('stats', '--json', '-o', 'ID,LAYERS', disk.path)).stdout)
  // The load goes on: sizes change.
  const unsized = (layers: readonly DiskLayer[]) =>
    layers.map(({ bytes, ...rest }) => ({ ...rest, used: bytes > 0 }))
  t.deepEqual(unsized(stats.stats[0].layers), unsized(await handle.layers()))
  t.regex(
    (await run('stats', '-o', 'LAYERS', disk.path)).stdout,
    /vm1\.cow\.one \(\S+\), \S+vm1\.cow \(\S+\)/,
  )
  t.deepEqual(await run('flatten', disk.path), SILENT)
  t.deepEqual(
    (await handle.layers()).map(({ path, written }) => [path, written]),
    [[at('vm1.cow'), true]],
  )
  // What it was made over can go. Another server does not look for it either.
  rmSync(BASE)
  rmSync(at('vm1.cow.one'))
  await disk.signal('SIGKILL')
  t.deepEqual(await run('recover', disk.path), { ...SILENT, stdout: `${disk.path}\n` })
  await sh('touch "$1/stop"', DIR.path)
  const loaded = await load
  t.is(loaded.status, 0, loaded.stderr)
  t.is(await restOf(disk.path), expected)
  const content = await sum(disk.path)
  t.regex((await run('reset', disk.path)).stderr, /^ublk-ts: .*was flattened: it has no base to go back to/)
  t.deepEqual(await run('delete', disk.path), SILENT)
  const alone = await Detached.create(`--upper ${at('vm1.cow')}`)
  t.is(await sum(alone.path), content)
  t.deepEqual(await run('delete', alone.path), SILENT)
  // It can be the base of others.
  {
    await using over = await UblkDevice.create({ backend: overlay(overlay(null, { upper: at('vm1.cow') })) })
    t.is(await sum(over.path), content)
  }
  // The base's zeroes take up no space.
  t.true(Number(await sh('du -m "$1" | cut -f1', at('vm1.cow'))) < 47)
})

test('a flattened disk over a web server is served without it', async t => {
  const backend = (url: string): OverlayBackend => overlay(lazy({ source: url }), { upper: at('web.cow') })
  let [url, content] = ['', '']
  {
    await using web = await ImageServer.start({ size: 8 << 20 })
    url = web.url
    await using disk = await UblkDevice.create({ backend: backend(url) })
    content = await sum(disk.path)
    await disk.flatten()
  }
  await using disk = await UblkDevice.create({ backend: backend(url) })
  t.is(await sum(disk.path), content)
})

test('a disk whose lazy base has a cache is forked only when it is flat', async t => {
  const base = lazy({ source: BASE, cache: at('cache') })
  const backend = overlay(base, { upper: at('cached.cow') })
  await using disk = await UblkDevice.create({ backend })
  await t.throwsAsync(disk.fork({ upper: at('fork.cow') }), {
    message: /^this disk cannot be forked: its base has the cache \S+cache$/,
  })
  t.is((await disk.layers()).length, 1, 'there is no snapshot')
  await disk.flatten()
  const content = await sum(disk.path)
  await using fork = await UblkDevice.create({ backend: await disk.fork({ upper: at('fork.cow') }) })
  t.is(await sum(fork.path), content)
})

test('a flatten leaves room for the writes of its disk', async t => {
  const small = at('small')
  await sh('mkdir "$1" && mount -t tmpfs -o size=16M none "$1"', small)
  t.teardown(async () => await sh('umount "$1"', small))
  await using disk = await UblkDevice.create({
    backend: overlay(file(BASE), { upper: join(small, 'upper') }),
  })
  const content = await sum(disk.path)
  await t.throwsAsync(disk.flatten(), { message: /^the file system of the upper \S+ has only \d+ MiB left/ })
  t.is(await sum(disk.path), content)
  await sh(
    'dd if=/dev/urandom of="$1" bs=64k count=8 seek=600 oflag=direct conv=fsync status=none',
    disk.path,
  )
})

test('a shrink that is refused does not shrink the disk for a moment', async t => {
  await using disk = await UblkDevice.create({ backend: overlay(file(BASE), { upper: at('shrink.cow') }) })
  const abort = new AbortController()
  const flatten = t.throwsAsync(disk.flatten({ rate: '1M', signal: abort.signal }), { any: true })
  await until(async () => (await disk.flattening()) !== undefined, 'it begins')
  const read = result(
    shell(
      'for x in 1 2 3 4 5 6; do fio --name=x --filename="$1" --direct=1 --rw=read --bs=4k --offset=40m --size=2m --output-format=terse >"$2/read.out" || exit; done',
      disk.path,
      DIR.path,
    ),
  )
  let ended = false
  void read.then(() => {
    ended = true
  })
  while (!ended) await t.throwsAsync(disk.resize('8M', { force: true }), { message: /is being flattened/ })
  const { status, stderr } = await read
  t.is(status, 0, stderr)
  abort.abort()
  await flatten
})

test('a fork that is flattened is recovered and upgraded', async t => {
  const disk = await Detached.create(`--file ${BASE} --overlay ${at('a.cow')} --name one --recovery reissue`)
  const { status, stdout, stderr } = await run('fork', disk.path, '--overlay', at('b.cow'), '--detach')
  t.is(status, 0, stderr)
  const path = stdout.trim()
  t.regex(path, /^\/dev\/ublkb\d+$/, 'the name stays with its disk')
  const content = await sum(path)
  t.deepEqual(await run('flatten', path), SILENT)
  t.deepEqual(await run('delete', disk.path), SILENT)
  for (const name of ['a.cow', 'a.cow.b.cow']) rmSync(at(name))
  const id = /\d+$/.exec(path)?.[0]
  const upgraded = await run('upgrade', path)
  t.is(upgraded.status, 0, upgraded.stderr)
  t.is(await sum(path), content)
  const server = (await UblkDevice.list()).find(device => device.id === Number(id))?.pid
  process.kill(server ?? 0, 'SIGKILL')
  t.is((await run('recover', path)).status, 0)
  t.is(await sum(path), content)
  t.deepEqual(await run('delete', path), SILENT)
})

test('a flatten is cancelled, and ended by a stop', async t => {
  const content = await sum(BASE)
  const backend = overlay(file(BASE), { upper: at('vm3.cow') })
  {
    await using disk = await UblkDevice.create({ backend })
    const errors = errorsOf(disk)
    await t.throwsAsync(disk.flatten({ rate: '1M', signal: AbortSignal.timeout(200) }), {
      any: true,
      name: 'TimeoutError',
    })
    const flatten = t.throwsAsync(disk.flatten({ rate: '1M' }), {
      message: /the disk was stopped before it was flat/,
    })
    await until(async () => (await disk.flattening()) !== undefined, 'it begins')
    await t.throwsAsync(disk.resize('64M'), { message: /is being flattened/ })
    t.is(await sum(disk.path), content)
    await disk.stop()
    await flatten
    await disk.start()
    await disk.flatten()
    t.is(await sum(disk.path), content)
    t.deepEqual(errors, [])
  }
  for (const copy of ['zero', 'copy'] as const) {
    await using disk = await UblkDevice.create({ backend: overlay(null, { upper: at('vm3.cow') }), copy })
    t.is(await sum(disk.path), content, copy)
  }
  const refused = async (message: RegExp, ...words: string[]): Promise<void> => {
    const { status, stdout, stderr } = await run(...words)
    t.deepEqual([status === 0, stdout], [false, ''], words.join(' '))
    t.regex(stderr, message)
  }
  const needs = at('vm4.cow')
  await (await UblkDevice.create({ backend: overlay(file(BASE), { upper: needs }) })).delete()
  await refused(/^ublk-ts: the upper \S+ needs its base; [^\n]+\n$/, 'create', '--upper', needs)
  await refused(/the upper \S+none does not exist/, 'create', '--upper', at('none'))
  await using plain = await UblkDevice.create({ backend: memory('8M') })
  await t.throwsAsync(plain.flatten(), { message: /this disk cannot be flattened/ })
  const inMemory = await Detached.create(`--file ${BASE} --overlay memory --recovery reissue`)
  await refused(/is in memory: it cannot be flattened/, 'flatten', inMemory.path)
  t.deepEqual(await run('delete', inMemory.path), SILENT)
})

test('a fork begins with what its disk has, and both go on by themselves', async t => {
  const disk = await Detached.create(`--file ${BASE} --overlay ${at('one.cow')} --recovery reissue`)
  await sh('dd if=/dev/urandom of="$1" bs=1M count=4 oflag=direct status=none', disk.path)
  const content = await sum(disk.path)
  const refused = async (message: RegExp, ...words: string[]): Promise<void> => {
    const { status, stdout, stderr } = await run('fork', ...words)
    t.deepEqual([status === 0, stdout], [false, ''], words.join(' '))
    t.regex(stderr, message)
  }
  await refused(/^ublk-ts: \S+one\.cow exists already; [^\n]+\n$/, disk.path, '--overlay', at('one.cow'))
  const first = await UblkDevice.open(disk.id)
  await t.throwsAsync(first.fork({ upper: '/tmp/two.cow' }), {
    message: /is not in the directory of the disk's upper/,
  })
  await t.throwsAsync(first.fork({ upper: at('two.cow'), name: 'a/b' }), {
    message: /is no name of a snapshot/,
  })
  t.is((await first.layers()).length, 1, 'nothing has changed')
  const { status, stdout, stderr } = await run('fork', disk.path, '--overlay', at('two.cow'), '--detach')
  t.is(status, 0, stderr)
  const path = stdout.trim()
  t.not(path, disk.path)
  t.true(existsSync(at('one.cow.two.cow')))
  t.is(await sum(path), content)
  await sh('dd if=/dev/urandom of="$1" bs=1M count=4 seek=2 oflag=direct status=none', path)
  t.is(await sum(disk.path), content)
  await sh('dd if=/dev/urandom of="$1" bs=1M count=4 oflag=direct status=none', disk.path)
  // A fork of the fork, by a program, which needs neither of them when it is flat.
  const handle = await UblkDevice.open(Number(/\d+$/.exec(path)?.[0]))
  const forked = await sum(path)
  {
    const backend = await handle.fork({ upper: at('three.cow'), name: 'for-three' })
    t.is(backend.snapshot, at('two.cow.for-three'))
    await using three = await UblkDevice.create({ backend })
    t.is(await sum(three.path), forked)
    await three.flatten()
    await t.throwsAsync(three.fork({ upper: at('three.cow') }), { message: /exists already/ })
    const four = await three.fork({ upper: at('four.cow') })
    await using fourth = await UblkDevice.create({ backend: four })
    t.is(await sum(fourth.path), forked)
  }
  for (const each of [path, disk.path]) t.deepEqual(await run('delete', each), SILENT)
  await using plain = await UblkDevice.create({ backend: memory('8M') })
  await t.throwsAsync(plain.fork({ upper: at('five.cow') }), { message: /this disk cannot be forked/ })
})

test('what was written to an overlay is put into its base', async t => {
  const upper = at('commit.cow')
  const disk = await Detached.create(`--file ${BASE} --overlay ${upper}`)
  await sh('dd if=/dev/urandom of="$1" bs=1M count=8 seek=16 oflag=direct status=none', disk.path)
  await sh('blkdiscard --offset 26M --length 2M "$1"', disk.path)
  const content = await sum(disk.path)
  const refused = await run('commit', upper, '--into', BASE)
  t.regex(refused.stderr, /^ublk-ts: \S+ is in use[^\n]+\n$/)
  await t.throwsAsync(commitOverlay(upper, BASE), { message: /is in use/ })
  t.deepEqual(await run('delete', disk.path), SILENT)
  t.deepEqual(await run('commit', upper, '--into', BASE), SILENT)
  t.is(await sum(BASE), content)
  t.false(existsSync(upper))
  await using again = await UblkDevice.create({ backend: overlay(file(BASE), { upper }) })
  t.is(await sum(again.path), content)
})
