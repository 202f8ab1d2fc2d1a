import { createHash } from 'node:crypto'
import { subscribe } from 'node:diagnostics_channel'
import {
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { open } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { type FetchRange, file, type LazyProgress, lazy, UblkDevice } from 'ublk-ts'
import { leaveNothingBehind } from '../support/devices.js'
import { ImageServer, imageBytes } from '../support/image-server.js'
import { inLab } from '../support/modes.js'
import { result, run, sh, shell } from '../support/program.js'

leaveNothingBehind(test)

const MIB = 2 ** 20
/** Of the image on the web server. `UBLK_TS_LAZY_SIZE=2147483648`: as large as real ones. */
const SIZE = Number(process.env['UBLK_TS_LAZY_SIZE'] ?? 48 * MIB)
const MAX = Number(process.env['UBLK_TS_LAZY_MAX'] ?? 8 * MIB)
const dir = mkdtempSync(join(tmpdir(), 'lazy-source-'))
test.after.always(() => rmSync(dir, { recursive: true }))

/** What a cache and its map take up, in bytes. */
const space = (cache: string): number =>
  [cache, `${cache}.map`].reduce((sum, path) => sum + statSync(path).blocks * 512, 0)

/** Runs `work`, and says how much the cache took up at most meanwhile. */
async function most(cache: string, work: () => Promise<void>): Promise<number> {
  let [largest, ended] = [0, false]
  const watch = (async () => {
    while (!ended) {
      largest = Math.max(largest, space(cache))
      await sleep(1)
    }
  })()
  await work().finally(() => {
    ended = true
  })
  await watch
  return largest
}

/** Reads random parts of a disk, several at a time, and compares each with the image and what was written since. */
async function readRandomly(
  t: ExecutionContext,
  path: string,
  reads: number,
  written: ReadonlyMap<number, number> = new Map(),
): Promise<void> {
  const PART = 64 * 1024
  const file = await open(path, 'r')
  let state = 12345
  const next = (below: number): number => {
    state = (state * 1103515245 + 12345) % 2 ** 31
    return Math.floor((state / 2 ** 31) * below)
  }
  const sum = (data: Buffer): string => createHash('sha256').update(data).digest('hex')
  const reader = async (): Promise<void> => {
    while (reads-- > 0) {
      const at = next(SIZE / PART) * PART
      const { buffer } = await file.read(Buffer.alloc(PART), 0, PART, at)
      const expected = imageBytes(at, PART)
      for (const [offset, byte] of written)
        if (offset >= at && offset < at + PART) expected.fill(byte, offset - at, offset - at + 4096)
      if (sum(buffer) !== sum(expected)) throw new Error(`wrong bytes at ${at}`)
    }
  }
  try {
    await Promise.all([reader(), reader(), reader(), reader()])
  } finally {
    await file.close()
  }
  t.pass()
}

const drop = (path: string): Promise<string> => sh('blockdev --flushbufs "$1"', path)

async function progress(id: number): Promise<LazyProgress> {
  const disk = await UblkDevice.open(id)
  return (await disk.lazyProgress()) as LazyProgress
}

test('an image on a web server, with a bounded cache: right, within its bound, and kept when its server is killed or upgraded', async t => {
  await using server = await ImageServer.start({ size: SIZE })
  const cache = join(dir, 'bounded')
  const secret = server.url.replace('http://', 'http://user:secret@')
  const words = [
    '--lazy',
    `${secret}?key=secret`,
    '--cache',
    cache,
    '--cache-max',
    `${MAX}`,
    '--recovery',
    'reissue',
  ]
  const made = await run('create', '--detach', ...words)
  t.is(made.status, 0, made.stderr)
  const path = made.stdout.trim()
  const id = Number(/\d+$/.exec(path)?.[0])
  const written = new Map<number, number>()
  const reads = Math.min(SIZE / (64 * 1024) / 2, 8192) // in each of three rounds
  let largest = await most(cache, async () => await readRandomly(t, path, reads))
  for (const [round, next] of ['recover', 'upgrade', 'recover'].entries()) {
    const file = await open(path, 'r+')
    for (let at = 0; at < 8; at++) {
      const offset = Math.floor((SIZE / 8) * at) + round * 8192
      await file.write(Buffer.alloc(4096, 200 + round), 0, 4096, offset)
      written.set(offset, 200 + round)
    }
    await file.sync()
    await file.close()
    const { pid } = await (await UblkDevice.open(id)).info()
    const reading = readRandomly(t, path, reads, written) // It goes on when another server has come.
    await sleep(200)
    if (next === 'recover') process.kill(pid, 'SIGKILL')
    largest = Math.max(
      largest,
      await most(cache, async () => {
        const served = await run(next, `${id}`)
        t.is(served.status, 0, served.stderr)
        await reading
      }),
    )
    await drop(path)
    largest = Math.max(largest, await most(cache, async () => await readRandomly(t, path, reads, written)))
  }
  const now = await progress(id)
  t.true(largest <= MAX && largest > MAX / 2, `${largest} bytes`)
  t.true(now.evicted > MAX && now.present <= MAX && (now.dirty ?? 0) >= 8 * 131072, JSON.stringify(now))
  t.log(`${largest} of ${MAX} bytes at most; ${JSON.stringify(now)}`)
  const shown = JSON.parse((await run('show', '--json', `${id}`)).stdout).ublkdevices[0]
  t.is(shown['present-max'], now.max)
  t.is(shown.source, server.url)
  t.notRegex(JSON.stringify(shown) + readFileSync(shown.log, 'utf8'), /secret/)
  t.regex((await run('top', '--count', '1', '--interval', '0.2')).stdout, /PRESENT\n.*\d+%/)
  t.regex((await run('metrics')).stdout, /ublk_lazy_evicted_bytes_total\{device="ublkb\d+"\} [1-9]/)
  t.is((await run('delete', `${id}`)).status, 0)

  // A cache keeps what was made of it: another image is refused, and so is another way.
  const again = await run('create', '--lazy', server.url, '--cache', cache)
  t.regex(again.stderr, /the map .* is of a bounded cache/)
  await server.set({ etag: '"two"' })
  const changed = await run('create', '--lazy', server.url, '--cache', cache, '--cache-max', `${MAX}`)
  t.regex(changed.stderr, /the map .* is of another disk/)
})

test('a disk is usable at once, however large its image is', async t => {
  await using server = await ImageServer.start({ size: 2 ** 31 })
  const backend = lazy({ source: server.url, cache: join(dir, 'large'), cacheMax: '64M' })
  let firstAnswer: number | undefined
  subscribe('http.client.response.finish', () => {
    firstAnswer ??= performance.now()
  })
  await using disk = await UblkDevice.create({ backend })
  const usable = performance.now() - (firstAnswer ?? 0)
  const { requests } = await server.done()
  const file = await open(disk.path, 'r')
  const first = await file.read(Buffer.alloc(4096), 0, 4096, 2 ** 30)
  await file.close()
  t.deepEqual(first.buffer, imageBytes(2 ** 30, 4096))
  t.log(`usable ${usable.toFixed(1)} ms after the first answer, ${requests} requests`)
  // For its size, and for what the kernel looks for partitions in: the image has 16384 chunks.
  if (inLab) t.is(requests, 1)
  else t.true(requests <= 16, `${requests} requests`)
})

test('a source that fails costs an I/O error, and is asked again', async t => {
  await using server = await ImageServer.start({ size: 16 * MIB })
  const backend = lazy({ source: server.url, timeout: 2000 })
  await using disk = await UblkDevice.create({ backend })
  disk.on('error', () => {})
  const read = async (mebibyte: number): Promise<string> =>
    (
      await result(
        shell('dd if="$1" of=/dev/null bs=4k count=1 skip="$2" iflag=direct', disk.path, `${mebibyte * 256}`),
      )
    ).stderr
  for (const [at, behaviour] of [
    [4, { status: 404 }],
    [5, { status: 0, silent: true }],
    [6, { silent: false, etag: '"two"' }],
  ] as const) {
    await server.set(behaviour)
    t.regex(await read(at), /error|timed out/i)
  }
  await server.set({ etag: '"one"' })
  t.notRegex(await read(4), /error|timed out/i)
  const now = (await disk.lazyProgress()) as LazyProgress
  t.true(now.failures >= 3 && now.present > 0)
})

test('the command line says how long a web server may take', async t => {
  await using server = await ImageServer.start({ silent: true })
  const { status, stderr } = await run('create', '--lazy', server.url, '--fetch-timeout', '0.3')
  t.is(status, 1)
  t.regex(stderr, /no answer within 300 ms/)
})

test('a file is read natively, filled in the background and in advance, and refused when it was changed', async t => {
  const image = join(dir, 'image')
  writeFileSync(image, imageBytes(0, 8 * MIB))
  truncateSync(image, 8 * MIB - 100) // It ends within a sector.
  const cache = join(dir, 'of-a-file')
  {
    await using disk = await UblkDevice.create({ backend: lazy({ source: image, cache }) })
    t.is(disk.size, 8 * MIB)
    await disk.prefetch([{ offset: MIB, length: 2 * MIB }])
    const now = (await disk.lazyProgress()) as LazyProgress
    t.true(now.present >= 2 * MIB && now.present < 4 * MIB && now.dirty === null, JSON.stringify(now))
    await t.throwsAsync(disk.prefetch([{ offset: 8 * MIB, length: 1 }]), { message: /not on the disk/ })
  }
  {
    await using disk = await UblkDevice.create({ backend: lazy({ source: image, cache, fill: '64M' }) })
    while (((await disk.lazyProgress()) as LazyProgress).filling === 'running') await sleep(20)
    const now = (await disk.lazyProgress()) as LazyProgress
    t.is(now.filling, 'complete')
    t.is(now.present, 8 * MIB)
    t.true(now.fetched <= 6 * MIB, 'what was there is not fetched again')
    await sh('cmp -n $((8*1048576-100)) "$1" "$2"', disk.path, image)
  }
  {
    // Answered at once: it is not asked before the device can take an answer.
    const fetch = ({ offset, length }: FetchRange) => imageBytes(offset, length)
    await using disk = await UblkDevice.create({ backend: lazy({ size: 8 * MIB, fetch, fill: true }) })
    const until = performance.now() + 20_000
    while (((await disk.lazyProgress()) as LazyProgress).filling === 'running' && performance.now() < until)
      await sleep(20)
    t.is(((await disk.lazyProgress()) as LazyProgress).filling, 'complete')
  }
  utimesSync(image, 1, 1)
  await t.throwsAsync(UblkDevice.create({ backend: lazy({ source: image, cache }) }), {
    message: /is of another disk/,
  })
})

test('a bounded cache is refused where its file system allocates more than a chunk at a time', async t => {
  const [image, disk, mounted] = [join(dir, 'of-clusters'), join(dir, 'disk'), join(dir, 'mounted')]
  writeFileSync(image, imageBytes(0, MIB))
  const mount =
    'truncate -s 64M "$1"; mkfs.ext4 -q -O bigalloc -C 65536 "$1"; mkdir "$2"; mount -o loop "$1" "$2"'
  await sh(mount, disk, mounted)
  try {
    const options = { source: image, cache: join(mounted, 'cache'), cacheMax: '16M' } as const
    await t.throwsAsync(UblkDevice.create({ backend: lazy({ ...options, chunk: '4K' }) }), {
      message:
        /^the cache's file system allocates 65536 bytes at a time, so chunks of 4096 bytes could exceed the bound$/,
    })
    await using made = await UblkDevice.create({ backend: lazy({ ...options, chunk: '64K' }) })
    await made.prefetch([{ offset: 0, length: MIB }])
  } finally {
    await sh('umount "$1"', mounted)
  }
})

test('a cache that another server has is left as it is', async t => {
  const [image, cache] = [join(dir, 'of-two'), join(dir, 'shared')]
  writeFileSync(image, imageBytes(0, 8 * MIB))
  const options = { source: image, cache, cacheMax: '6M', fill: true } as const
  await UblkDevice.create({ backend: lazy({ ...options, fill: false }) }).then(disk => disk.delete())
  await using disk = await UblkDevice.create({ backend: file(cache) })
  const other = join(dir, 'other')
  writeFileSync(other, Buffer.alloc(8 * MIB, 'y'))
  await sh('dd if="$2" of="$1" bs=1M oflag=direct status=none', disk.path, other)
  await t.throwsAsync(UblkDevice.create({ backend: lazy(options) }), { message: /in use/ })
  await sh('cmp "$1" "$2"', cache, other)
})

test('a bound that is too small for its cache leaves no files', async t => {
  const [image, cache] = [join(dir, 'of-none'), join(dir, 'none')]
  writeFileSync(image, imageBytes(0, MIB))
  const backend = lazy({ source: image, cache, cacheMax: '1M' })
  await t.throwsAsync(UblkDevice.create({ backend }), {
    message: /the bound of the cache is below \d+ bytes/,
  })
  t.deepEqual([cache, `${cache}.map`].filter(existsSync), [])
})

test('the command line fills a disk in the background until its bounded cache is full, and prefetches', async t => {
  const image = join(dir, 'of-commands')
  writeFileSync(image, imageBytes(0, 32 * MIB))
  const made = await run('create', '--detach', '--lazy', image, '--cache-max', '8M', '--fill', 'max')
  t.is(made.status, 0, made.stderr)
  const path = made.stdout.trim()
  const id = Number(/\d+$/.exec(path)?.[0])
  while ((await progress(id)).filling === 'running') await sleep(20)
  const now = await progress(id)
  t.is(now.filling, 'full')
  t.true(now.present > 6 * MIB && now.present <= 8 * MIB && now.evicted === 0, JSON.stringify(now))
  t.is((await run('prefetch', path, '30M+1M')).status, 0)
  t.true((await progress(id)).evicted > 0)
  await sh('cmp "$1" "$2"', path, image)
  t.regex((await run('prefetch', path, '40M+1M')).stderr, /not on the disk/)
  t.is((await run('delete', `${id}`)).status, 0)
})
