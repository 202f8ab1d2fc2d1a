/** Each fault on the real driver: what programs see of it, and that nothing waits for it forever. */
import { mkdtempSync, rmSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import test from 'ava'
import {
  concat,
  type FaultErrno,
  type FaultRule,
  faults,
  file,
  lazy,
  memory,
  nullDisk,
  overlay,
  powercut,
  qcow2,
  type ServedDevice,
  slice,
  stripe,
  type TraceRecord,
  tracked,
  UblkDevice,
  type UblkError,
} from 'ublk-ts'
import { Detached, leaveNoServerBehind } from '../support/detached.js'
import { supported } from '../support/modes.js'
import { type Result, result, run, sh, shell } from '../support/program.js'
import { until } from '../support/server.js'

leaveNoServerBehind(test)

const DIR = mkdtempSync('/dev/shm/faults-')
test.after.always(() => rmSync(DIR, { recursive: true }))

/** Copies blocks of 4 KiB with dd. */
function dd(words: string, path: string): Promise<Result> {
  return result(shell(`exec dd bs=4k status=none ${words}`, path))
}
const write = async (path: string, words = ''): Promise<Result> =>
  await dd(`if=/dev/zero of="$1" count=1 oflag=direct ${words}`, path)
const read = async (path: string): Promise<Result> =>
  await dd('if="$1" of=/dev/null count=1 iflag=direct', path)

/** Writes a block of ones. */
async function ones(path: string): Promise<Result> {
  return await result(
    shell(
      'head -c 4096 /dev/zero | tr "\\0" "\\1" | dd of="$1" bs=4k iflag=fullblock oflag=direct status=none',
      path,
    ),
  )
}

/** What the C library says of each error. */
const WORDS: Readonly<Record<FaultErrno, string>> = {
  EIO: 'Input/output error',
  ENOSPC: 'No space left on device',
  ETIMEDOUT: 'Connection timed out',
  EOPNOTSUPP: 'Operation not supported',
  ENODATA: 'No data available',
  EILSEQ: 'Invalid or incomplete multibyte or wide character',
  ENOLINK: 'Link has been severed',
  EREMOTEIO: 'Remote I/O error',
  EBADE: 'Invalid exchange',
  ENOMEM: 'Cannot allocate memory',
  EBUSY: 'Device or resource busy',
  ENODEV: 'No such device',
  ETIME: 'Timer expired',
}

/** The bytes of a disk, in blocks of 512: the first byte of each. */
async function blocks(path: string, count: number): Promise<string> {
  const words =
    'dd if="$1" bs=512 count="$2" iflag=direct status=none | od -An -v -tx1 -w512 | cut -c2-3 | tr -d "\\n"'
  return await sh(words, path, `${count}`)
}

test('each effect is what programs see, on one disk', async t => {
  await using disk = await UblkDevice.create({ backend: faults(memory('16M')) })
  const { path } = disk
  const rules = async (...list: FaultRule[]): Promise<void> => await disk.faults.set(list)
  const ok = async (made: Promise<Result>): Promise<void> => {
    const { status, stderr } = await made
    t.is(status, 0, stderr)
  }
  const clean = async (): Promise<void> => {
    await disk.faults.clear()
    await ok(dd('if=/dev/zero of="$1" count=4 oflag=direct', path))
  }

  for (const [errno, words] of Object.entries(WORDS)) {
    await rules({ op: 'read', errno: errno as FaultErrno })
    t.regex((await read(path)).stderr, new RegExp(words), `${errno} reaches a program`)
  }
  await rules({ op: 'write', errno: 'ENOSPC' })
  t.regex((await write(path)).stderr, new RegExp(WORDS.ENOSPC))
  const { stderr } = await dd('if=/dev/zero of="$1" count=1 conv=fsync', path)
  t.regex(stderr, new RegExp(`fsync failed.*${WORDS.EIO}`), 'a buffered write')
  await clean()

  await rules({ op: 'write', nth: 2, errno: 'EIO' })
  t.deepEqual([(await write(path)).status, (await write(path)).status, (await write(path)).status], [0, 1, 0])
  await rules({ full: '8K' })
  t.deepEqual([(await write(path)).status, (await write(path)).status], [0, 0])
  t.regex((await write(path)).stderr, /No space left on device/)

  await rules({ lose: true })
  await ok(ones(path))
  await rules({ tear: 1024 })
  t.is(await blocks(path, 8), '00'.repeat(8), 'a lost write')
  await ok(ones(path))
  t.is(await blocks(path, 8), `${'01'.repeat(2)}${'00'.repeat(6)}`, 'a torn write')
  await clean()
  await rules({ misdirect: '8K' })
  await ok(ones(path))
  t.is(await blocks(path, 24), `${'00'.repeat(16)}${'01'.repeat(8)}`, 'a misdirected write')
  await clean()
  const bits = async (): Promise<string> =>
    (await sh('dd if="$1" bs=4k count=1 iflag=direct status=none | tr -d "\\0" | wc -c', path)).trim()
  await rules({ op: 'read', corrupt: true })
  t.is(await bits(), '1', 'a read is corrupted')
  await rules({ op: 'write', corrupt: true })
  t.is(await bits(), '0', 'the data is right')
  await ok(write(path))
  t.is(await bits(), '1', 'a write is corrupted')
  await clean()

  for (const rule of [{ delay: '400ms' }, { op: 'read', rate: '10K' }] as const) {
    await rules(rule)
    const begun = performance.now()
    await ok(read(path))
    const took = performance.now() - begun
    t.true(took >= 390, `${JSON.stringify(rule)} takes its time: ${took}`)
  }
  await rules({ op: 'read', iops: 10 })
  const begun = performance.now()
  await ok(dd('if="$1" of=/dev/null count=5 iflag=direct', path))
  t.true(performance.now() - begun >= 390, 'a limit of requests')
})

test('a rule that was applied is counted, and named in the trace', async t => {
  await using disk = await UblkDevice.create({
    backend: faults(memory('16M'), [
      { op: 'write', delay: 1 },
      { op: 'write', every: 2, errno: 'EIO' },
    ]),
  })
  const [seen, done] = [[] as TraceRecord[], new AbortController()]
  const traced = disk.trace(records => void seen.push(...records), { signal: done.signal })
  for (const _ of [1, 2, 3]) await write(disk.path)
  await read(disk.path)
  const writes = (): TraceRecord[] => seen.filter(({ op }) => op === 'write')
  await until(() => writes().length === 3 && seen.some(({ op }) => op === 'read'), 'all are traced')
  t.deepEqual(
    writes().map(({ faults, error }) => ({ faults, error })),
    [
      { faults: [0], error: null },
      { faults: [0, 1], error: 'EIO' },
      { faults: [0], error: null },
    ],
  )
  t.deepEqual(seen.find(({ op }) => op === 'read')?.faults, [])
  done.abort()
  await traced
  const { rules, hanging, seed } = await disk.faults.get()
  t.deepEqual([hanging, seed], [0, 0])
  t.deepEqual(
    rules.map(({ considered, applied, ofProfile }) => ({ considered, applied, ofProfile })),
    [
      { considered: 3, applied: 3, ofProfile: false },
      { considered: 3, applied: 1, ofProfile: false },
    ],
  )
})

test('what hangs goes on when it is thawed, and fails when the disk is deleted', async t => {
  for (const options of [{}, { transport: 'batch' }] as const) {
    if ('transport' in options && !supported.has('BATCH_IO')) continue
    const disk = await UblkDevice.create({ backend: faults(memory('16M'), [{ hang: true }]), ...options })
    const hanging = async (count: number): Promise<void> =>
      await until(async () => (await disk.faults.get()).hanging === count, `${count} hang`)
    await disk.faults.thaw() // what udev may have read
    await disk.faults.set([{ op: 'write', hang: true }])
    const first = write(disk.path)
    await hanging(1)
    await t.throwsAsync(disk.stop(), { message: /in use/ }, 'it is in use')
    t.is((await disk.faults.get()).hanging, 1, 'a stop that is refused changes nothing')
    t.is(await disk.faults.thaw(), 1)
    t.is((await first).status, 0)
    const others = [write(disk.path), write(disk.path, 'seek=1')]
    await hanging(2)
    const begun = performance.now()
    await disk.delete({ force: true })
    t.true(performance.now() - begun < 5000, 'the deletion does not wait')
    for (const { status, stderr } of await Promise.all(others)) {
      t.is(status, 1)
      t.regex(stderr, /Input\/output error/)
    }
  }
})

test('a delay ends with its disk', async t => {
  const disk = await UblkDevice.create({ backend: faults(memory('16M'), [{ op: 'write', delay: '1h' }]) })
  const writer = write(disk.path)
  await until(() => disk.stats()[0]?.inFlight === 1, 'it is in flight')
  await disk.delete({ force: true })
  await writer
  t.pass()
})

test('a server that is killed, upgraded or asked by the command line leaves nothing that hangs', async t => {
  await sh('truncate -s 16M "$1"', `${DIR}/disk`)
  const words = `--file ${DIR}/disk --recovery reissue --fault op=write,hang`
  const disk = await Detached.create(words)
  const hangs = async (): Promise<{ writer: Promise<Result> }> => {
    const writer = write(disk.path)
    await until(async () => /^hanging requests: 1$/m.test((await run('fault', disk.path)).stdout), 'it hangs')
    return { writer }
  }
  const ended = async (what: string, writer: Promise<Result>, status = 0): Promise<void> => {
    const late = sleep(20_000, undefined, { ref: false })
    t.is((await Promise.race([writer, late]))?.status, status, what)
  }
  const thawed = await hangs()
  const silent = { status: 0, signal: null, stdout: '', stderr: '' }
  t.deepEqual(await run('fault', disk.path, '--thaw'), silent)
  await ended('thawed', thawed.writer)
  t.regex((await run('fault', disk.path)).stdout, /^ *RULE.*\n *0 +1 +1 +op=write,hang\n$/)

  const kept = await hangs()
  if (supported.has('QUIESCE')) {
    t.is((await run('upgrade', disk.path)).status, 0)
    await ended('served before the upgrade', kept.writer)
  } else {
    await run('fault', disk.path, '--thaw')
  }

  const killed = await hangs()
  await disk.signal('SIGKILL')
  t.is((await run('recover', disk.path)).status, 0)
  await run('fault', disk.path, '--clear', '--thaw')
  await ended('sent again to the next server', killed.writer)
  t.deepEqual(await run('fault', disk.path), silent, 'no rules')

  t.deepEqual(await run('fault', disk.path, 'op=write,hang', '--seed', '3'), silent)
  const last = await hangs()
  t.is((await run('delete', '--force', disk.path)).status, 0)
  await ended('failed by the deletion', last.writer, 1)
})

test('zero copy goes on without rules that corrupt, and is not used with them', async t => {
  await sh('truncate -s 16M "$1"', `${DIR}/zero`)
  const create = async (rules: FaultRule[]): Promise<ServedDevice> =>
    await UblkDevice.create({ backend: faults(file(`${DIR}/zero`), rules) })
  {
    await using disk = await create([{ op: 'write', tear: 512 }])
    if (supported.has('AUTO_BUF_REG')) t.is(disk.choice?.copy, 'zero')
    await ones(disk.path)
    t.is(await blocks(disk.path, 8), `01${'00'.repeat(7)}`)
    if (disk.choice?.copy === 'zero') {
      const error = await t.throwsAsync<UblkError>(disk.faults.set([{ corrupt: true }]))
      t.is(error?.kind, 'unsupported')
      t.is(error?.message, 'a rule corrupts data, which this disk is served without looking at')
    }
  }
  await using disk = await create([{ op: 'read', corrupt: true }])
  t.is(disk.choice?.copy, 'copy')
  const bits = await sh(
    'dd if="$1" bs=4k count=1 iflag=direct status=none skip=1 | tr -d "\\0" | wc -c',
    disk.path,
  )
  t.is(bits.trim(), '1')
})

test('every native backend can have faults', async t => {
  await sh('cd "$1"; truncate -s 8M a b c; qemu-img create -q -f qcow2 d 8M', DIR)
  const at = (name: string): string => `${DIR}/${name}`
  const disks = {
    memory: memory('8M'),
    null: nullDisk('8M'),
    file: file(at('a')),
    slice: slice(file(at('a')), { offset: '1M' }),
    concat: concat([memory('4M'), memory('4M')]),
    stripe: stripe([memory('4M'), memory('4M')], { chunk: '64K' }),
    overlay: overlay(file(at('b')), { upper: at('upper') }),
    qcow2: qcow2(at('d')),
    tracked: tracked(file(at('c')), { map: at('map') }),
    powercut: powercut({ size: '8M' }),
    lazy: lazy({ size: '8M', fetch: ({ length }) => new Uint8Array(length) }),
  }
  for (const [kind, backend] of Object.entries(disks)) {
    await using disk = await UblkDevice.create({ backend: faults(backend) })
    await disk.faults.set([{ op: 'write', errno: 'ENOSPC', times: 1 }])
    t.regex((await write(disk.path)).stderr, /No space left on device/, kind)
    t.is((await write(disk.path)).status, 0, kind)
    t.is((await read(disk.path)).status, 0, kind)
  }
})

test('a disk without faults says so', async t => {
  await using disk = await UblkDevice.create({ backend: memory('1M') })
  for (const asked of [disk.faults.get(), disk.faults.set([]), disk.faults.thaw()]) {
    const error = await t.throwsAsync<UblkError>(asked)
    t.is(error?.kind, 'unsupported')
    t.is(error?.hint, 'create it with rules, even with none: faults(disk, rules)')
  }
})

test('one leg of a stripe has faults, and a file system on it notices', async t => {
  await using disk = await UblkDevice.create({
    backend: stripe([memory('32M'), faults(memory('32M'), [{ op: 'write', after: 100, errno: 'EIO' }])], {
      chunk: '64K',
    }),
  })
  const { status } = await result(
    shell(
      'mkfs.ext4 -q "$1" && dd if=/dev/urandom of="$1" bs=1M count=64 oflag=direct status=none',
      disk.path,
    ),
  )
  t.not(status, 0)
  const { rules } = await disk.faults.get()
  t.true((rules[0]?.applied ?? 0) > 0)
})
