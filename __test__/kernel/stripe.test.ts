// processors: 2
/**
 * What the kernel's own tests of ublk do with a stripe of two files (tools/testing/selftests/ublk, test_stripe_*,
 * test_recover_01, test_stress_01 to 04), through the command line. UBLK_TS_STRIPE_SIZE sets the size of each file in
 * bytes; the kernel's tests take 256 MiB.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import test from 'ava'
import { UblkDevice } from 'ublk-ts'
import { Detached, gone, leaveNoServerBehind } from '../support/detached.js'
import { kernelHas } from '../support/modes.js'
import { result, run, sh, shell } from '../support/program.js'
import { until } from '../support/server.js'

leaveNoServerBehind(test)

const EACH = Number(process.env['UBLK_TS_STRIPE_SIZE'] ?? 16 * 2 ** 20)
const SECONDS = EACH < 256 * 2 ** 20 ? 3 : 20
const SILENT = { status: 0, signal: null, stdout: '', stderr: '' }
const DIR = mkdtempSync('/dev/shm/stripe-')

test.beforeEach('two empty files', () =>
  sh('cd "$1"; rm -f a b; truncate -s "$2" a b; mkdir -p mnt', DIR, `${EACH}`),
)
test.after.always(() => rmSync(DIR, { recursive: true }))

async function stripe(words: string): Promise<Detached> {
  return await Detached.create(`--stripe ${DIR}/a,${DIR}/b ${words}`.trim())
}

const modes = [
  { queues: 1, transport: 'per-io', copy: 'copy' },
  { queues: 2, transport: 'per-io', copy: 'copy' },
  { queues: 2, transport: 'per-io', copy: 'zero' },
  { queues: 2, transport: 'batch', copy: 'zero' },
] as const

for (const { queues, transport, copy } of modes.filter(kernelHas)) {
  const words = `--queues ${queues} --transport ${transport} --copy ${copy}`

  test(`what fio writes to a stripe is read back, and a file system on it is mounted: ${words}`, async t => {
    const { path } = await stripe(words)
    await sh(
      `fio --name=verify --filename="$1" --size="$2" --rw=randwrite --direct=1 --ioengine=libaio --bs=8k --iodepth=32 \\
         --verify=crc32c --verify_fatal=1 --do_verify=1 --verify_state_save=0
       mkfs.ext4 -q -F "$1"; mount "$1" "$3/mnt"; cp /etc/services "$3/mnt"; umount "$1"; e2fsck -fn "$1"`,
      path,
      `${2 * EACH}`,
      DIR,
    )
    t.deepEqual(await run('delete', path), SILENT)
  })
}

/** Four processes read the disk for this time, with 256 requests in flight each. */
function readers(path: string, seconds = SECONDS): ReturnType<typeof result> {
  const script = `fio --name=reader --filename="$1" --size="$2" --rw=randread --bs=4k --ioengine=libaio --iodepth=256 \\
    --numjobs=4 --time_based --runtime=${seconds} --output-format=terse --output=/dev/null`
  return result(shell(script, path, `${2 * EACH}`))
}

async function stateOf({ id }: Detached): Promise<string> {
  return (await (await UblkDevice.open(id)).info()).state
}

for (const recovery of ['requeue', 'reissue']) {
  test(`a stripe whose server is killed under I/O is recovered: ${recovery}`, async t => {
    const disk = await stripe(`--queues 2 --recovery ${recovery}`)
    const reading = readers(disk.path)
    await sh('sleep 1')
    await disk.signal('SIGKILL')
    await until(async () => (await stateOf(disk)) === 'quiesced', 'the device is quiesced')
    t.deepEqual(await run('recover', disk.path), { ...SILENT, stdout: `${disk.path}\n` })
    t.is(await stateOf(disk), 'live')
    const { status, stderr } = await reading
    // With `requeue`, requests in flight fail, and fio ends.
    if (recovery === 'reissue') t.is(status, 0, stderr)
    await sh('dd if="$1" of=/dev/null bs=1M count=4 iflag=direct status=none', disk.path)
    t.deepEqual(await run('delete', disk.path), SILENT)
  })
}

test('a stripe is deleted under I/O', async t => {
  const disk = await stripe('--queues 2')
  const { pid } = disk
  const reading = readers(disk.path, 10)
  await sh('sleep 1')
  t.is((await run('delete', disk.path)).status, 1) // It is in use.
  t.is((await run('delete', '--force', disk.path)).status, 0)
  await gone(pid)
  await reading // Whether it sees errors or the end of a disk of no size is the kernel's affair.
})

test('a stripe whose server is killed under I/O, without recovery, is gone', async t => {
  const disk = await stripe('--queues 2')
  const reading = readers(disk.path, 10)
  await sh('sleep 1')
  await disk.signal('SIGKILL')
  t.not((await reading).status, 0)
  t.is(await stateOf(disk), 'stopped')
  t.deepEqual(await run('delete', disk.path), SILENT)
})
