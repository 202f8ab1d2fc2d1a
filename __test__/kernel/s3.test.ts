// processors: 1 and 2
// seconds: 90
/**
 * Disks in object stores: here in a directory, which is one as well. Servers are killed, caches are lost, and another server
 * takes the volume. UBLK_TS_KILLS sets how often the disk's server is killed (default: 2).
 */

import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type { ExecutionContext } from 'ava'
import { s3, UblkDevice } from 'ublk-ts'
import { Detached, leaveNoServerBehind } from '../support/detached.js'
import { verify } from '../support/nbd-server.js'
import { onTwo, test } from '../support/processors.js'
import { run, sh } from '../support/program.js'
import { until } from '../support/server.js'
import { Versitygw } from '../support/versitygw.js'

leaveNoServerBehind(test)

const KILLS = Number(process.env['UBLK_TS_KILLS'] ?? 2)
const DIR = mkdtempSync('/tmp/s3-')
const URL = `file://${DIR}/store`
const CACHE = `${DIR}/cache`
const WORDS = `--s3 ${URL} --cache ${CACHE} --cache-max 64M --volume-size 96M`

test.beforeEach(() => sh('rm -rf "$1"; mkdir "$1"', DIR))
test.after.always(() => rmSync(DIR, { recursive: true }))

const objects = (of: string): string[] => {
  const dir = `${DIR}/store/${of}`
  return existsSync(dir) ? readdirSync(dir, { recursive: true, encoding: 'utf8' }) : []
}
const said = (disk: Detached): string => disk.log.map(line => line.message ?? line.msg ?? '').join('\n')

/** Deletes the disk, and makes it again with another cache, as on another machine. */
async function elsewhere(t: ExecutionContext, disk: Detached, words: string): Promise<Detached> {
  t.is((await run('delete', disk.path)).status, 0)
  rmSync(CACHE, { recursive: true })
  return await Detached.create(words)
}

for (const durable of ['object', 'local']) {
  for (const queues of [1, 2]) {
    const make = queues === 1 ? test.serial : onTwo.serial
    make(`fio and ext4 find on another machine what they wrote: ${durable}, queues: ${queues}`, async t => {
      t.timeout(300_000)
      const words = `${WORDS} --durable ${durable} --queues ${queues}`
      let disk = await Detached.create(words)
      t.is(await verify(disk.path), '')
      await sh(
        `mkfs.ext4 -q "$1"; mkdir -p "$2/mnt"; mount "$1" "$2/mnt"; cp -a /usr/share/perl "$2/mnt/"
         (cd "$2/mnt" && find perl -type f | sort | xargs sha256sum >"$2/sums"); umount "$2/mnt"`,
        disk.path,
        DIR,
      )
      disk = await elsewhere(t, disk, words)
      await sh(
        `e2fsck -fn "$1" >/dev/null; mount "$1" "$2/mnt"; cd "$2/mnt" && sha256sum --quiet -c "$2/sums"
         cd /; umount "$2/mnt"`,
        disk.path,
        DIR,
      )
      t.is((await run('delete', disk.path)).status, 0)
    })
  }
}

test.serial('with recovery reissue nothing fails while its server is killed', async t => {
  t.timeout(300_000 + KILLS * 20_000)
  const disk = await Detached.create(`${WORDS} --recovery reissue`)
  let done = false
  const rounds = async (): Promise<string> => {
    let failed = ''
    while (!done && failed === '') failed = await verify(disk.path)
    return failed
  }
  const load = rounds()
  for (let kill = 0; kill < KILLS; kill++) {
    await sleep(300 + Math.random() * 1500)
    await disk.signal('SIGKILL')
    const recovered = { status: 0, signal: null, stdout: `${disk.path}\n`, stderr: '' }
    t.deepEqual(await run('recover', disk.path), recovered)
  }
  const { status, stderr } = await run('upgrade', disk.path)
  t.is(status, 0, stderr)
  done = true
  t.is(await load, '')
  t.is((await run('delete', disk.path)).status, 0)
})

test.serial('what was synced is there when machine and cache are lost', async t => {
  const words = WORDS
  let disk = await Detached.create(words)
  await sh(
    `mkfs.ext4 -q "$1"; mkdir "$2/mnt"; mount "$1" "$2/mnt"; cp -a /usr/share/perl "$2/mnt/"; sync -f "$2/mnt"
     (cd "$2/mnt" && find perl -type f | sort | xargs sha256sum >"$2/sums"); echo lost >"$2/mnt/later"`,
    disk.path,
    DIR,
  )
  await disk.signal('SIGKILL')
  await sh('umount -l "$1/mnt"', DIR)
  await run('delete', '--force', disk.path)
  rmSync(CACHE, { recursive: true })
  disk = await Detached.create(words)
  await sh(
    `mount "$1" "$2/mnt"; cd "$2/mnt" && sha256sum --quiet -c "$2/sums"; cd /; umount "$2/mnt"; e2fsck -fn "$1" >/dev/null`,
    disk.path,
    DIR,
  )
  t.is((await run('delete', disk.path)).status, 0)
})

test.serial('who opens a volume is its only writer, and who had it says so', async t => {
  const first = await Detached.create(WORDS)
  await sh('dd if=/dev/urandom of="$1" bs=64K count=16 oflag=direct conv=fsync status=none', first.path)
  const second = await Detached.create(WORDS.replace(CACHE, `${DIR}/other`))
  await sh('cmp -n 1M "$1" "$2"', first.path, second.path)
  await sh('dd if=/dev/urandom of="$1" bs=64K count=16 oflag=direct conv=fsync status=none', second.path)
  await t.throwsAsync(
    sh('dd if=/dev/zero of="$1" bs=64K count=1 oflag=direct conv=fsync status=none', first.path),
    { message: /Input\/output error/ },
  )
  await until(
    () => /was opened by process \d+ on .*: the disk has stopped/.test(said(first)),
    'the first server says who has opened the volume',
  )
  await t.throwsAsync(sh('dd if="$1" of=/dev/null bs=64K count=1 iflag=direct status=none', first.path), {
    message: /Input\/output error/,
  })
  t.is((await run('delete', first.path)).status, 0)
  await sh('dd if="$1" of=/dev/null bs=64K count=16 iflag=direct status=none', second.path)
  t.is((await run('delete', second.path)).status, 0)
  const { status, stderr } = await run('create', '--detach', ...WORDS.split(' '))
  t.is(status, 1)
  t.regex(
    stderr,
    /^ublk-ts: the cache has \d+ bytes that were never stored, and somebody has opened the volume since/,
  )
})

test.serial('a program learns by an event that its disk has lost its volume', async t => {
  const size = '16M'
  await using first = await UblkDevice.create({ backend: s3(URL, { cache: CACHE, size }) })
  const told: string[] = []
  first.on('fenced', ({ reason }) => told.push(`fenced ${reason}`))
  first.on('error', ({ message }) => told.push(`error ${message}`))
  const all = (message: unknown): number => told.push(`channel ${(message as { reason: string }).reason}`)
  subscribe('ublk-ts.disk.fenced', all)
  await using _second = await UblkDevice.create({ backend: s3(URL, { cache: `${DIR}/other`, size }) })
  await t.throwsAsync(
    sh('dd if=/dev/zero of="$1" bs=4k count=1 oflag=direct conv=fsync status=none', first.path),
  )
  await until(() => told.length === 3, 'it is told')
  unsubscribe('ublk-ts.disk.fenced', all)
  t.false((await first.volume())?.serving)
  const [, reason] = /^channel (.*)$/.exec(told[0] ?? '') ?? []
  t.regex(reason ?? '', /^file:\S+ was opened by process \d+ on \S+, \d+ s ago: the disk has stopped/)
  t.deepEqual(told, [`channel ${reason}`, `fenced ${reason}`, `error ${reason}`])
})

test.serial('what is wrong with a volume is said in one line', async t => {
  const refused = async (words: string, message: RegExp): Promise<void> => {
    const { status, stderr } = await run('create', '--detach', ...words.split(' '))
    t.not(status, 0, words)
    t.regex(stderr, message)
    t.is(
      stderr
        .trimEnd()
        .split('\n')
        .filter(line => line.startsWith('ublk-ts:')).length,
      1,
      stderr,
    )
  }
  await refused(`--s3 ${URL} --cache ${CACHE}`, /there is no volume at file:/)
  await refused(`--s3 ${URL}`, /needs --cache/)
  await refused(`--s3 ${URL} --cache ${CACHE} --volume-size 1000`, /multiple of 4096/)
  await refused(`--s3 http://x --cache ${CACHE}`, /is no URL of a volume/)
  await refused(
    `--s3 ${URL} --cache ${CACHE} --cache-max 1M --volume-size 1G`,
    /a cache of 1048576 bytes is below/,
  )
  const disk = await Detached.create(WORDS)
  await refused(WORDS, /in use|is used/)
  t.is((await run('delete', disk.path)).status, 0)
  await refused(WORDS.replace('96M', '32M'), /has 100663296 bytes, not 33554432/)
})

test.serial('the space of what was overwritten is given back', async t => {
  t.timeout(300_000)
  await using disk = await UblkDevice.create({
    backend: s3(URL, { cache: CACHE, cacheMax: '64M', size: '64M', durable: 'local', delay: 100 }),
  })
  for (let round = 0; round < 6; round++)
    await sh('dd if=/dev/urandom of="$1" bs=1M count=64 oflag=direct status=none', disk.path)
  await sh('dd if="$1" bs=1M iflag=direct status=none | sha256sum >"$2/sum"', disk.path, DIR)
  t.true(objects('log').length > 0)
  await sh('dd if="$1" bs=1M iflag=direct status=none | sha256sum | cmp - "$2/sum"', disk.path, DIR)
})

test.serial('on an S3 server that is killed and comes back nothing fails, and no secret is told', async t => {
  if (!Versitygw.isBuilt(t)) return
  t.timeout(300_000)
  Versitygw.announce()
  await using server = new Versitygw()
  await server.start(`${DIR}/store`)
  const words = WORDS.replace(URL, 's3://disks/a/volume')
  let disk = await Detached.create(words)
  let done = false
  const rounds = async (): Promise<string> => {
    let failed = ''
    while (!done && failed === '') failed = await verify(disk.path, '--fsync=16')
    return failed
  }
  const load = rounds()
  for (let kill = 0; kill < KILLS; kill++) {
    await sleep(500 + Math.random() * 1000)
    await server.kill()
    await sleep(Math.random() * 2000)
    await server.start(`${DIR}/store`)
  }
  await sleep(500)
  done = true
  t.is(await load, '')
  await sh('dd if="$1" bs=1M iflag=direct status=none | sha256sum >"$2/sum"', disk.path, DIR)
  const told = [
    readFileSync(disk.recordPath, 'utf8'),
    JSON.stringify(disk.log),
    (await run('show', disk.path)).stdout,
    (await run('list', '--json')).stdout,
    readFileSync(`/proc/${disk.pid}/cmdline`, 'utf8'),
  ]
  t.deepEqual(
    told.filter(text => text.includes(Versitygw.SECRET)),
    [],
  )
  disk = await elsewhere(t, disk, words)
  await sh('dd if="$1" bs=1M iflag=direct status=none | sha256sum | cmp - "$2/sum"', disk.path, DIR)
  t.is((await run('delete', disk.path)).status, 0)
})
