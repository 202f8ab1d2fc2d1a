// seconds: 90
/**
 * Snapshots of disks in object stores, their clones, what was stored at a time, and other sizes: in a directory, and on an S3
 * server.
 */
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { s3, UblkDevice } from 'ublk-ts'
import { Detached, leaveNoServerBehind } from '../support/detached.js'
import { run, sh } from '../support/program.js'
import { until } from '../support/server.js'
import { Versitygw } from '../support/versitygw.js'

leaveNoServerBehind(test)

const DIR = mkdtempSync('/tmp/s3-snapshot-')
const MNT = `${DIR}/mnt`

test.beforeEach(() => sh('rm -rf "$1"; mkdir "$1" "$2"', DIR, MNT))
test.after.always(() => rmSync(DIR, { recursive: true }))

/** Runs a command, which must succeed. */
async function ok(t: ExecutionContext, ...words: string[]): Promise<string> {
  const { status, stdout, stderr } = await run(...words)
  t.deepEqual([status, stderr], [0, ''], words.join(' '))
  return stdout
}

const refused = async (t: ExecutionContext, message: RegExp, ...words: string[]): Promise<void> => {
  const { status, stderr } = await run(...words)
  t.not(status, 0, words.join(' '))
  t.regex(stderr, message)
  t.is(stderr.split('\n').filter(line => line.startsWith('ublk-ts:')).length, 1, stderr)
}

const sumOf = async (path: string): Promise<string> =>
  (await sh('dd if="$1" bs=1M iflag=direct status=none | sha256sum', path)).split(' ')[0] as string

/** What is below a directory, in bytes. */
const sizeOf = (dir: string): number =>
  readdirSync(dir, { recursive: true, encoding: 'utf8' }).reduce((sum, name) => {
    const found = statSync(`${dir}/${name}`, { throwIfNoEntry: false })
    return sum + (found?.isFile() ? found.size : 0)
  }, 0)

/** A file system is kept while it is used, and a clone has its old files. */
async function oldFiles(t: ExecutionContext, base: string): Promise<void> {
  const words = (volume: string, cache: string, more: string): string =>
    `--s3 ${base}/${volume} --cache ${DIR}/${cache}-cache --cache-max 64M ${more}`.trimEnd()
  const disk = await Detached.create(words('golden', 'golden', '--volume-size 96M'))
  await sh(
    `mkfs.ext4 -q "$1"; mount "$1" "$2"; cp -a /usr/share/perl "$2/"
     (cd "$2" && find perl -type f | sort | xargs sha256sum >"$3/sums"); fsfreeze -f "$2"`,
    disk.path,
    MNT,
    DIR,
  )
  await ok(t, 'snapshot', disk.path, 'before')
  await sh('fsfreeze -u "$1"', MNT)
  t.regex(await ok(t, 'snapshots', disk.path), /^NAME +MADE +SIZE\nbefore +\d{4}-.*Z +96M\n$/)
  await refused(t, /there is a snapshot before already/, 'snapshot', disk.path, 'before')
  await refused(t, /no name of a snapshot/, 'snapshot', disk.path, 'a/b')
  await sh(
    `rm -rf "$1/perl"; dd if=/dev/urandom of="$1/new" bs=1M count=60 conv=fsync status=none
     rm "$1/new"; sync -f "$1"; fstrim "$1"; dd if=/dev/urandom of="$1/new" bs=1M count=60 conv=fsync status=none`,
    MNT,
  )
  const looks = `mount $3 "$1" "$2/its"; cd "$2/its" && sha256sum --quiet -c "$2/sums"; cd /; umount "$2/its"`
  mkdirSync(`${DIR}/its`)
  const clone = await Detached.create(words('clone', 'clone', `--from ${base}/golden@before`))
  await sh(looks, clone.path, DIR, '')
  await sh(
    `mount "$1" "$2/its"; dd if=/dev/urandom of="$2/its/other" bs=1M count=8 conv=fsync status=none
     (cd "$2/its"; sha256sum other >>"$2/sums"); umount "$2/its"`,
    clone.path,
    DIR,
  )
  await refused(t, /the snapshot before has a clone: /, 'snapshot', disk.path, 'before', '--remove')
  const sum = await sumOf(clone.path)
  await ok(t, 'delete', clone.path)
  const old = await Detached.create(words('golden', 'old', '--at before --read-only'))
  await sh('head -n -1 "$1/sums" >"$1/older"; mv "$1/older" "$1/sums"', DIR)
  await sh(looks, old.path, DIR, '-o ro,noload')
  await t.throwsAsync(sh('dd if=/dev/zero of="$1" bs=4k count=1 oflag=direct status=none', old.path))
  await ok(t, 'delete', old.path)
  await sh('umount "$1"; e2fsck -fn "$2" >&2', MNT, disk.path)
  await ok(t, 'delete', disk.path)
  // On another machine.
  rmSync(`${DIR}/clone-cache`, { recursive: true })
  const again = await Detached.create(words('clone', 'clone', ''))
  t.is(await sumOf(again.path), sum)
  await ok(t, 'delete', again.path)
  await refused(
    t,
    /is no clone of /,
    'create',
    '--detach',
    ...words('clone', 'clone', `--from ${base}/golden@other`).split(' '),
  )
}

test.serial('a clone has the old files while the disk is used: in a directory', async t => {
  t.timeout(300_000)
  await oldFiles(t, `file://${DIR}`)
})

test.serial('a clone has the old files while the disk is used: on an S3 server', async t => {
  if (!Versitygw.isBuilt(t)) return
  t.timeout(300_000)
  Versitygw.announce()
  await using server = new Versitygw()
  await server.start(`${DIR}/store`)
  await oldFiles(t, 's3://disks')
})

test.serial('snapshots survive kills under load, and what was removed gives its space back', async t => {
  t.timeout(300_000)
  const store = `${DIR}/store`
  const words = `--s3 file://${store} --cache ${DIR}/cache --cache-max 64M --volume-size 32M --recovery reissue`
  const disk = await Detached.create(words)
  const sums = new Map<string, string>()
  for (let round = 0; round < 4; round++) {
    await sh('dd if=/dev/urandom of="$1" bs=1M count=32 oflag=direct conv=fsync status=none', disk.path)
    sums.set(`s${round}`, await sumOf(disk.path))
    await ok(t, 'snapshot', disk.path, `s${round}`)
    if (round % 2 === 0) continue
    await disk.signal('SIGKILL')
    await ok(t, 'recover', disk.path)
  }
  for (const [name, sum] of sums) {
    const old = await Detached.create(
      `--s3 file://${store} --cache ${DIR}/old --cache-max 64M --at ${name} --read-only`,
    )
    t.is(await sumOf(old.path), sum, name)
    await ok(t, 'delete', old.path)
  }
  const before = sizeOf(store)
  t.true(before > 4 * (32 << 20), `${before}`)
  for (const name of sums.keys()) await ok(t, 'snapshot', disk.path, name, '--remove')
  t.is(await ok(t, 'snapshots', disk.path), '')
  await refused(t, /there is no snapshot s1/, 'snapshot', disk.path, 's1', '--remove')
  await until(() => sizeOf(store) < 50 << 20, 'the space is given back')
  t.is(await sumOf(disk.path), sums.get('s3') ?? '')
  await ok(t, 'delete', disk.path)
})

test.serial('what is retained is opened as it was then, and nothing from before', async t => {
  const url = `file://${DIR}/store`
  const cache = (name: string) => ({ cache: `${DIR}/${name}`, cacheMax: '64M' }) as const
  await using disk = await UblkDevice.create({
    backend: s3(url, { ...cache('cache'), size: '16M', retain: 3600 }),
  })
  const born = new Date(Date.now() - 60_000)
  const states: [Date, string][] = []
  for (let round = 0; round < 3; round++) {
    await sh('dd if=/dev/urandom of="$1" bs=1M count=16 oflag=direct conv=fsync status=none', disk.path)
    await sleep(50)
    states.push([new Date(), await sumOf(disk.path)])
    await sleep(50)
  }
  for (const [at, sum] of states) {
    await using old = await UblkDevice.create({ backend: s3(url, { ...cache('old'), at }), readOnly: true })
    t.is(await sumOf(old.path), sum)
  }
  const early = UblkDevice.create({ backend: s3(url, { ...cache('old'), at: born }), readOnly: true })
  await t.throwsAsync(early, { message: /nothing was stored then/ })
  const writable = UblkDevice.create({ backend: s3(url, { ...cache('old'), at: new Date() }) })
  await t.throwsAsync(writable, { message: /has to be read-only/ })
})

test.serial('a volume grows and shrinks, and its next server knows', async t => {
  const words = `--s3 file://${DIR}/store --cache ${DIR}/cache --cache-max 64M`
  const disk = await Detached.create(`${words} --volume-size 16M`)
  await sh('dd if=/dev/urandom of="$1" bs=1M count=16 oflag=direct conv=fsync status=none', disk.path)
  const first = await sh('dd if="$1" bs=1M count=8 iflag=direct status=none | sha256sum', disk.path)
  const { status, stderr } = await run('resize', disk.path, '8M')
  if (status !== 0 && /kernel cannot resize/.test(stderr)) {
    t.log('SKIPPED: this kernel cannot resize a device')
    return
  }
  t.is(status, 0, stderr)
  await refused(t, /a multiple of 4096/, 'resize', disk.path, '8389120')
  await ok(t, 'resize', disk.path, '32M')
  await sh('cmp -n 24M -i 8M:0 "$1" /dev/zero', disk.path)
  await ok(t, 'delete', disk.path)
  const again = await Detached.create(words)
  t.is(await sh('blockdev --getsize64 "$1"', again.path), `${32 << 20}\n`)
  t.is(await sh('dd if="$1" bs=1M count=8 iflag=direct status=none | sha256sum', again.path), first)
  await sh('cmp -n 24M -i 8M:0 "$1" /dev/zero', again.path)
  await ok(t, 'delete', again.path)
})
