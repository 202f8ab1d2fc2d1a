// processors: 1 and 2
/**
 * What was written to an overlay is put into its base: while the disk is in use and its load is checked, and without a server;
 * through kills of either.
 */
import { spawn } from 'node:child_process'
import { existsSync, readFileSync, statSync } from 'node:fs'
import { type BaseBackend, type CreateOptions, file, lazy, overlay, qcow2, UblkDevice } from 'ublk-ts'
import { Detached, leaveNoServerBehind } from '../support/detached.js'
import { LayersDir, LOAD, restOf, sum } from '../support/layers-dir.js'
import { kernelHas } from '../support/modes.js'
import { onTwo, test } from '../support/processors.js'
import { result, run, sh, shell } from '../support/program.js'
import { until } from '../support/server.js'

leaveNoServerBehind(test)

const SILENT = { status: 0, signal: null, stdout: '', stderr: '' }
const DIR = new LayersDir(test, 'commit')
const BASE = DIR.base
const at = (name: string): string => DIR.at(name)

const random = (seek: number, count: number): string =>
  `dd if=/dev/urandom of="$1" bs=1M count=${count} seek=${seek} oflag=direct status=none`

onTwo('a disk is committed under a checked load and through a kill of its server', async t => {
  const upper = at('vm1.cow')
  const disk = await Detached.create(`--file ${BASE} --overlay ${upper} --recovery reissue --queues 2`)
  await sh(random(30, 6), disk.path)
  t.deepEqual(await run('snapshot', disk.path, 'one'), SILENT)
  await sh(`${random(26, 6)}; blkdiscard --offset 40M --length 4M "$1"`, disk.path)
  const expected = await restOf(disk.path)
  const handle = await UblkDevice.open(disk.id)
  t.is(await handle.committing(), undefined)
  const refused = async (message: RegExp, ...words: string[]): Promise<void> => {
    const { status, stdout, stderr } = await run('commit', ...words)
    t.deepEqual([status === 0, stdout], [false, ''], words.join(' '))
    t.regex(stderr, message)
  }
  const before = statSync(BASE).mtimeMs
  await refused(/^ublk-ts: the upper \S+vm1\.cow is over 1 snapshots; [^\n]+\n$/, disk.path)
  {
    await using other = await UblkDevice.create({ backend: overlay(file(BASE), { upper: at('other.cow') }) })
    await refused(/^ublk-ts: \S+base is in use by others than this disk; [^\n]+\n$/, disk.path, '--force')
    t.true(other.id !== disk.id)
  }
  await refused(/^ublk-ts: \S+base is in use[^\n]+\n$/, upper, '--into', BASE)
  t.is((await handle.layers()).length, 2, 'nothing has changed')
  t.is(statSync(BASE).mtimeMs, before)
  const load = result(shell(LOAD, disk.path, DIR.path))
  const commit = run('commit', disk.path, '--force', '--rate', '2M')
  await until(async () => ((await handle.committing())?.done ?? 0) > 26 << 20, 'a part is in the base')
  t.regex((await run('show', '-o', 'COMMITTED', disk.path)).stdout, /^COMMITTED +\d+%\n$/)
  t.regex((await run('snapshot', disk.path, 'two')).stderr, /^ublk-ts: the disk is being committed; .*\n$/)
  await refused(/the disk is being committed/, disk.path)
  await disk.signal('SIGKILL')
  const { status, stderr } = await commit
  t.not(status, 0)
  t.regex(stderr, /^ublk-ts: [^\n]+\n$/)
  t.true(statSync(BASE).mtimeMs > before, 'the base is partly the old one')
  t.deepEqual(await run('recover', disk.path), { ...SILENT, stdout: `${disk.path}\n` })
  t.is(await restOf(disk.path), expected)
  t.deepEqual(
    (await handle.layers()).map(({ path }) => path),
    [`${upper}.one`, `${upper}.commit~1`, upper],
  )
  await t.throwsAsync(UblkDevice.create({ backend: overlay(file(BASE), { upper: at('other.cow') }) }), {
    message: /was made over a file of \d+ bytes, changed at \S+, and the base is/,
  })
  t.deepEqual(await run('commit', disk.path), SILENT)
  t.deepEqual(
    (await handle.layers()).map(({ path }) => path),
    [upper],
  )
  t.false(existsSync(`${upper}.one`))
  t.is(await restOf(BASE), expected)
  await sh('touch "$1/stop"', DIR.path)
  const loaded = await load
  t.is(loaded.status, 0, loaded.stderr)
  t.is(await restOf(disk.path), expected)
  // Without a load, all of it.
  const reports: number[] = []
  await handle.commit({ onProgress: ({ done, size }) => reports.push(done / size) })
  t.true(reports.every(share => share >= 0 && share <= 1))
  const content = await sum(disk.path)
  t.is(await sum(BASE), content)
  const upgraded = await run('upgrade', disk.path)
  t.is(upgraded.status, 0, upgraded.stderr)
  t.is(await sum(disk.path), content)
  t.deepEqual(await run('delete', disk.path), SILENT)
  await using again = await UblkDevice.create({ backend: overlay(file(BASE), { upper }) })
  t.is(await sum(again.path), content)
})

test('a commit is cancelled, ended by a stop and by a hand-over, and goes on without a server', async t => {
  const upper = at('vm2.cow')
  let content = ''
  {
    await using disk = await UblkDevice.create({ backend: overlay(file(BASE), { upper }) })
    await sh(random(10, 20), disk.path)
    content = await sum(disk.path)
    await t.throwsAsync(disk.commit({ rate: '1M', signal: AbortSignal.timeout(200) }), {
      any: true,
      name: 'TimeoutError',
    })
    t.is(await sum(disk.path), content)
    const commit = t.throwsAsync(disk.commit({ rate: '1M' }), {
      message: /the disk was stopped before it was committed/,
    })
    await until(async () => (await disk.committing()) !== undefined, 'it begins')
    await t.throwsAsync(disk.resize('64M'), { message: /is being committed/ })
    await t.throwsAsync(disk.flatten(), { message: /is being committed/ })
    await disk.stop()
    await commit
    await disk.start()
    t.is(await sum(disk.path), content)
    await t.throwsAsync(disk.commit({ rate: '0x' }), { message: /rate '0x' is not understood/ })
  }
  const detached = await Detached.create(`--file ${BASE} --overlay ${upper} --recovery reissue`)
  const commit = run('commit', detached.path, '--rate', '1M')
  const handle = await UblkDevice.open(detached.id)
  await until(async () => (await handle.committing()) !== undefined, 'it begins')
  const upgraded = await run('upgrade', detached.path)
  t.is(upgraded.status, 0, upgraded.stderr)
  t.regex((await commit).stderr, /^ublk-ts: [^\n]+\n$/)
  t.is(await sum(detached.path), content)
  t.deepEqual(await run('delete', detached.path), SILENT)
  t.deepEqual(await run('commit', upper, '--into', BASE), SILENT)
  t.is(await sum(BASE), content)
  t.deepEqual(
    (await sh('cd "$1"; ls', DIR.path)).split('\n').filter(name => name.startsWith('vm2')),
    [],
  )
})

/** Whether the upper says that it is being put into its base. */
const isCommitting = (upper: string): boolean => {
  const header = readFileSync(upper).subarray(0, 512)
  return header.readBigUInt64LE(112) === 3n
}

test('a commit without a server is killed, and done again', async t => {
  const upper = at('vm3.cow')
  let content = ''
  let kills = 0
  for (let round = 0; round < 8 && kills < 2; round++) {
    {
      await using disk = await UblkDevice.create({ backend: overlay(file(BASE), { upper }) })
      await sh(random(4, 40), disk.path)
      content = await sum(disk.path)
    }
    for (;;) {
      const child = spawn(process.execPath, [
        '--input-type=module',
        '-e',
        `import { commitOverlay } from 'ublk-ts'; await commitOverlay(${JSON.stringify(upper)}, ${JSON.stringify(BASE)})`,
      ])
      const ended = new Promise<number | null>(resolve => child.once('exit', resolve))
      let over = false
      void ended.then(() => {
        over = true
      })
      const before = statSync(BASE).mtimeMs
      while (!over && kills % 3 < 2 && statSync(BASE).mtimeMs === before) {
        await new Promise(resolve => setImmediate(resolve))
      }
      if (!over && kills < 2) child.kill('SIGKILL')
      const status = await ended
      if (status === 0 || !existsSync(upper)) break
      kills++
      t.true(isCommitting(upper))
      await t.throwsAsync(UblkDevice.create({ backend: overlay(file(BASE), { upper }) }), {
        message: /was being put into its base, and that was interrupted/,
      })
    }
    t.false(existsSync(upper))
    t.is(await sum(BASE), content)
  }
  t.true(kills > 0, 'none was killed in time')
})

test('what cannot be committed is refused in one line', async t => {
  const refused = async (message: RegExp, ...words: string[]): Promise<void> => {
    const { status, stdout, stderr } = await run('commit', ...words)
    t.deepEqual([status === 0, stdout], [false, ''], words.join(' '))
    t.regex(stderr, message)
    t.regex(stderr, /^ublk-ts: [^\n]+\n$/)
  }
  await refused(/'vm1\.cow' is not a ublk device; name the base/, 'vm1.cow')
  await refused(/--rate is only for a device/, 'vm1.cow', '--into', BASE, '--rate', '1M')
  const inMemory = await Detached.create(`--file ${BASE} --overlay memory --recovery reissue`)
  await refused(/is in memory: it cannot be committed/, inMemory.path)
  t.deepEqual(await run('delete', inMemory.path), SILENT)
  const larger = await Detached.create(`--file ${BASE} --overlay ${at('larger.cow')} --overlay-size 50M`)
  await refused(/the disk has 52428800 bytes, and its base only 50331648/, larger.path)
  t.deepEqual(await run('delete', larger.path), SILENT)
  await using plain = await UblkDevice.create({ backend: file(BASE) })
  await t.throwsAsync(plain.commit(), { message: /this disk cannot be committed/ })
  const over = overlay(file(plain.path), { upper: at('device.cow') })
  await using onDevice = await UblkDevice.create({ backend: over })
  await t.throwsAsync(onDevice.commit(), { message: /no file with the disk's bytes at their own offsets/ })
})

const KINDS: Record<string, (way: number) => BaseBackend> = {
  'a lazy disk': way => lazy({ source: BASE, cache: at(`cache${way}`) }),
  'a qcow2 image': () => qcow2(at('image')),
}
const WAYS = [
  { transport: 'batch', copy: 'zero' },
  { transport: 'per-io', copy: 'copy', threads: 'shared' },
] as const

for (const [kind, base] of Object.entries(KINDS)) {
  onTwo(`a disk over ${kind} is flattened in all ways of serving it, and not committed`, async t => {
    await sh('qemu-img convert -O qcow2 "$1/base" "$1/image"', DIR.path)
    for (const [number, way] of WAYS.entries()) {
      if (!kernelHas(way)) continue
      const upper = at(`${kind.split(' ')[1]}${number}`)
      const options: CreateOptions = { backend: overlay(base(number), { upper }), queues: 2, ...way }
      let content = ''
      {
        await using disk = await UblkDevice.create(options)
        await sh(random(8, 4), disk.path)
        content = await sum(disk.path)
        await t.throwsAsync(disk.commit(), { message: /no file with the disk's bytes at their own offsets/ })
        await disk.flatten()
        t.is(await sum(disk.path), content)
      }
      await using disk = await UblkDevice.create({ backend: overlay(null, { upper }) })
      t.is(await sum(disk.path), content)
    }
  })
}
