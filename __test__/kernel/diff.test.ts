// processors: 1 and 2
/**
 * Diffs of disks that are written meanwhile, and what they make of a copy of the base.
 */
import {
  createWriteStream,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type { ExecutionContext } from 'ava'
import { applyDiff, file, overlay, qcow2, tracked, UblkDevice } from 'ublk-ts'
import { Detached, leaveNoServerBehind } from '../support/detached.js'
import { onTwo, test } from '../support/processors.js'
import { result, run, sh, shell } from '../support/program.js'
import { until } from '../support/server.js'

leaveNoServerBehind(test)

const MIB = 2 ** 20
const SIZE = 40 * MIB
const BLOCK = 4096
const SILENT = { status: 0, signal: null, stdout: '', stderr: '' }
const DIR = mkdtempSync('/dev/shm/diff-')

test.beforeEach('a new image', () =>
  sh('cd "$1"; rm -rf ./*; truncate -s "$2" a.img; truncate -s "$2" base', DIR, `${SIZE}`),
)
test.after.always(() => rmSync(DIR, { recursive: true }))

const sha256 = async (path: string): Promise<string> =>
  (await sh('sha256sum <"$1"', path)).split(' ', 1)[0] as string
const at = (name: string): string => `${DIR}/${name}`

/** What each of two writers has written up to an instant: rounds of blocks in order, each with the round's number. */
const FIRST = [8, 24].map(mib => (mib * MIB) / BLOCK)
const BLOCKS = (4 * MIB) / BLOCK

/** Starts writers. In each round a writer writes the round's number to all blocks, from the first to the last. */
function startWriters(path: string): { end: () => Promise<void> } {
  writeFileSync(
    at('writer.py'),
    `import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_DIRECT)
buffer = mmap.mmap(-1, 4096)
number = 0
while not os.path.exists(sys.argv[2]):
    number += 1
    buffer[:] = number.to_bytes(8, 'little') * 512
    for block in range(int(sys.argv[3]), int(sys.argv[3]) + ${BLOCKS}):
        os.pwrite(fd, buffer, block * 4096)
    open(sys.argv[2] + sys.argv[3], 'w')
`,
  )
  const writers = FIRST.map(first =>
    result(shell('exec python3 "$1/writer.py" "$2" "$1/stop" "$3"', DIR, path, `${first}`)),
  )
  const end = async (): Promise<void> => {
    writeFileSync(at('stop'), '')
    for (const { status, stderr } of await Promise.all(writers)) if (status !== 0) throw new Error(stderr)
  }
  return { end }
}

/** Checks that a copy is of one instant: the blocks up to some place have one number, and those behind it the one before. */
function isOfOneInstant(t: ExecutionContext, path: string): void {
  const copy = readFileSync(path)
  for (const first of FIRST) {
    const words = new BigUint64Array(copy.buffer, copy.byteOffset + first * BLOCK, (BLOCKS * BLOCK) / 8)
    const [newest = 0n, oldest = 0n] = [words[0], words.at(-1)]
    t.true(newest > 0n && (oldest === newest || oldest === newest - 1n), `${newest} and ${oldest}`)
    const count = words.lastIndexOf(newest) + 1
    t.is(count % (BLOCK / 8), 0, 'a block is torn')
    t.true(words.subarray(0, count).every(word => word === newest))
    t.true(words.subarray(count).every(word => word === oldest))
  }
}

/** Makes of a copy of the base what a diff says. */
async function applied(diff: string): Promise<string> {
  await sh('cp --sparse=always "$1/base" "$1/copy"', DIR)
  await applyDiff(at(diff), at('copy'))
  return at('copy')
}

const disks = {
  'a file': () => file(at('a.img')),
  'an overlay': () => overlay(file(at('a.img')), { upper: at('upper') }),
  'a qcow2 image': () => qcow2(at('a.qcow2')),
}

for (const [kind, below] of Object.entries(disks)) {
  onTwo(`a diff of ${kind} that is written meanwhile is of one instant, in every format`, async t => {
    await sh('qemu-img create -q -f qcow2 "$1/a.qcow2" "$2"', DIR, `${SIZE}`)
    await using disk = await UblkDevice.create({ backend: tracked(below(), { map: at('map') }), queues: 2 })
    const since = 'monday'
    await sh('dd if=/dev/urandom of="$1" bs=1M count=20 oflag=direct status=none', disk.path)
    await sh('dd if="$1" of="$2/base" bs=1M iflag=direct conv=sparse,notrunc status=none', disk.path, DIR)
    await disk.checkpoint(since)

    // Of a quiet moment: all that was changed, zeroes too.
    await sh(
      `dd if=/dev/urandom of="$1" bs=1M seek=8 count=30 oflag=direct status=none
       blkdiscard -z -o 4M -l 2M "$1"; dd if=/dev/urandom of="$1" bs=512 seek=3 count=1 oflag=direct status=none`,
      disk.path,
    )
    const quiet = await sha256(disk.path)
    await disk.diff({ since, out: at('quiet') })
    t.is(await sha256(await applied('quiet')), quiet)
    await applyDiff(at('quiet'), at('copy')) // again
    t.is(await sha256(at('copy')), quiet)
    await disk.diff({ out: at('full') })
    await sh('head -c "$2" /dev/urandom >"$1/other"', DIR, `${SIZE}`)
    await applyDiff(at('full'), at('other'))
    t.is(await sha256(at('other')), quiet)

    const writers = startWriters(disk.path)
    await until(() => FIRST.every(first => existsSync(at(`stop${first}`))), 'both have ended a round')
    await disk.diff({ since, out: at('stream') })
    isOfOneInstant(t, await applied('stream'))
    await disk.diff({ since, out: at('image'), format: 'qcow2', backing: 'base' })
    await sh('cd "$1"; qemu-img check -q image; qemu-img convert -f qcow2 -O raw image copy', DIR)
    isOfOneInstant(t, at('copy'))
    if (kind === 'a file') {
      await disk.diff({ since, out: createWriteStream(at('piped')) })
      isOfOneInstant(t, await applied('piped'))
      await disk.diff({ since, out: at('raw'), format: 'raw' })
      isOfOneInstant(t, await applied('raw'))
    }
    await writers.end()

    // Of a quiet moment, they are all the same.
    const last = await sha256(disk.path)
    await disk.diff({ since, out: at('last.raw'), format: 'raw' })
    t.is(await sha256(await applied('last.raw')), last)
    await disk.diff({ since, out: at('last.image'), format: 'qcow2', backing: 'base' })
    await sh(
      'cd "$1"; qemu-img check -q last.image; qemu-img compare -q -f qcow2 -F raw last.image copy',
      DIR,
    )
    await disk.diff({ out: at('all.image'), format: 'qcow2' })
    await sh('cd "$1"; qemu-img check -q all.image; qemu-img compare -q -f qcow2 -F raw all.image copy', DIR)
  })
}

test('what is wrong with a diff is said in one line, and nothing is touched', async t => {
  const disk = await Detached.create(`--file ${DIR}/a.img --track ${DIR}/map`)
  const id = `${disk.id}`
  t.deepEqual(await run('checkpoint', id, 'monday'), SILENT)
  await sh('dd if=/dev/urandom of="$1" bs=1M count=8 oflag=direct status=none', disk.path)
  t.deepEqual(await run('diff', id, '--since', 'monday', '--out', at('good')), SILENT)
  t.deepEqual(await run.shell(`diff ${id} --since monday --out - | cat >${at('piped')}`), SILENT)
  await sh('cd "$1"; cmp good piped; cp --sparse=always base copy', DIR)
  t.deepEqual(await run('apply', at('piped'), '--to', at('copy')), SILENT)
  t.is(await sha256(at('copy')), await sha256(disk.path))
  const says = async (pattern: RegExp, ...words: string[]): Promise<void> => {
    const { status, stdout, stderr } = await run(...words)
    t.regex(stderr, pattern)
    t.regex(stderr, /^[^\n]*\n$/)
    t.true(status === 1 || status === 2)
    t.is(stdout, '')
  }
  const diff = (...words: string[]): [string, ...string[]] => ['diff', id, '--since', 'monday', ...words]
  await says(/good exists already; name another file, or remove that one/, ...diff('--out', at('good')))
  await says(
    /there is no checkpoint friday; there are monday/,
    'diff',
    id,
    '--since',
    'friday',
    '--out',
    at('x'),
  )
  await says(
    /the format must be 'stream', 'raw' or 'qcow2', not 'vmdk'/,
    ...diff('--out', at('x'), '--format', 'vmdk'),
  )
  await says(/has a backing file; name the copy/, ...diff('--out', at('x'), '--format', 'qcow2'))
  await says(/a diff of the format raw needs a file/, ...diff('--out', '-', '--format', 'raw'))
  await sh('mkdir "$1/full"; mount -t tmpfs -o size=1M none "$1/full"', DIR)
  for (const format of ['stream', 'raw', 'qcow2']) {
    const backing = format === 'qcow2' ? ['--backing', 'base'] : []
    await says(
      /No space left on device \(ENOSPC\)/,
      ...diff('--out', at('full/x'), '--format', format, ...backing),
    )
    t.deepEqual(readdirSync(at('full')), [])
  }
  await sh('umount "$1/full"; rmdir "$1/full"', DIR)

  await sh('mkfs.ext4 -q -E nodiscard "$1"; mkdir "$2/mnt"; mount "$1" "$2/mnt"', disk.path, DIR)
  await says(
    /mnt\/x is on the disk itself; write the diff to another file system/,
    ...diff('--out', at('mnt/x')),
  )
  await sh('umount "$1/mnt"', DIR)
  const base = await sha256(at('base'))
  await sh(
    'cd "$1"; head -c 3M good >cut; cp good wrong; printf x | dd of=wrong bs=1 seek=2M conv=notrunc status=none',
    DIR,
  )
  await says(/the diff .*cut is incomplete; nothing was changed: /, 'apply', at('cut'), '--to', at('base'))
  await says(/the diff .*wrong is damaged; nothing was changed: /, 'apply', at('wrong'), '--to', at('base'))
  await says(/base is no diff; /, 'apply', at('base'), '--to', at('base'))
  t.is(await sha256(at('base')), base)
  await says(/is of a disk of 41943040 bytes, and .*good has \d+; /, 'apply', at('good'), '--to', at('good'))
  await says(
    /a\.img is in use: .*; apply the diff to something that nobody uses/,
    'apply',
    at('good'),
    '--to',
    at('a.img'),
  )
  t.deepEqual(await run('delete', id), SILENT)
})

test('a server that is killed during a diff leaves no unfinished diff, and keeps its checkpoints', async t => {
  const disk = await Detached.create(
    `--file ${DIR}/a.img --track ${DIR}/map --recovery reissue --auto-restart`,
  )
  const id = `${disk.id}`
  await sh(
    'dd if=/dev/urandom of="$1" bs=1M count=32 oflag=direct status=none; cp "$2/a.img" "$2/base"',
    disk.path,
    DIR,
  )
  t.deepEqual(await run('checkpoint', id, 'monday'), SILENT)
  await sh('dd if=/dev/urandom of="$1" bs=1M seek=8 count=32 oflag=direct status=none', disk.path)
  // Nobody reads the stream: this diff does not end before the server.
  const diff = run.shell(`diff ${id} --since monday --out - | { sleep 4; wc -c; }`)
  await sleep(1500)
  const second = await run('diff', id, '--out', at('x'))
  t.regex(second.stderr, /another diff of the disk is under way; wait until it has ended/)
  const { pid } = disk
  process.kill(pid, 'SIGKILL')
  t.regex((await diff).stderr, /^ublk-ts: .*closed the connection\n$/)
  t.deepEqual(readdirSync(DIR).sort(), ['a.img', 'base', 'map'])
  await until(
    async () => disk.pid !== pid && (await run('checkpoints', id)).stdout.includes('monday'),
    'it is served again',
  )
  t.deepEqual(await run('diff', id, '--since', 'monday', '--out', at('x')), SILENT)
  t.is(await sha256(await applied('x')), await sha256(disk.path))
  t.deepEqual(await run('delete', id), SILENT)
})
