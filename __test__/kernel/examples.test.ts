// processors: 1 and 2
import { randomBytes } from 'node:crypto'
import { readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { UblkDevice, worker } from 'ublk-ts'
import { leaveNothingBehind } from '../support/devices.js'
import { writePrograms } from '../support/documents.js'
import { onTwo, test } from '../support/processors.js'
import { result, sh, shell } from '../support/program.js'
import { MEBIBYTES, verify } from '../support/verify.js'

leaveNothingBehind(test)

const example = (name: string): URL => new URL(`../examples/${name}.js`, import.meta.url)

const firstProgram = (document: string): string => writePrograms(document)[0] ?? ''

test('the first program of the start page runs as it is shown', async t => {
  const out = await sh('node "$1"; ls /dev/ublkb* 2>/dev/null || true', firstProgram('docs/start.md'))
  t.regex(out, /^\/dev\/ublkb\d+ 67108864\n[1-9]\d* reads, [1-9]\d* bytes written\n$/)
})

test("the guide's first program serves zeroes until Ctrl-C", async t => {
  const out = await sh(
    `node "$1" >/tmp/zeroes & server=$!
    until [ -s /tmp/zeroes ]; do kill -0 $server; sleep 0.1; done
    disk=$(cat /tmp/zeroes); cmp -n 67108864 "$disk" /dev/zero && blockdev --getsize64 --getro "$disk"
    kill -INT $server; wait $server; [ ! -e "$disk" ]`,
    firstProgram('docs/write-a-disk.md'),
  )
  t.is(out, '67108864\n1\n')
})

test("the guide's program survives power cuts", async t => {
  t.is(await sh('node "$1"', firstProgram('docs/power-cuts.md')), 'it survives 30 power cuts\n')
})

test('scratch: a command runs on a file system of its own, and nothing remains', async t => {
  const program = fileURLToPath(example('scratch'))
  const out = await sh(
    `mkdir -p /tmp/scratch; node "$1" 32M /tmp/scratch sh -c 'cp -r dist /tmp/scratch/; diff -r dist /tmp/scratch/dist; df --output=target /tmp/scratch'
    mountpoint -q /tmp/scratch && echo still mounted || true`,
    program,
  )
  t.is(out.trim().split('\n').at(-1), '/tmp/scratch')
})

onTwo('ram-disk: two workers share its memory', async t => {
  const memory = new SharedArrayBuffer(MEBIBYTES * 2 ** 20)
  await using disk = await UblkDevice.create({ backend: worker(example('ram-disk'), { memory }), queues: 2 })
  await verify(disk.path)
  t.true(new Uint8Array(memory).some(byte => byte !== 0))
})

test('encrypted-disk: the file holds only ciphertext, which the key alone reads', async t => {
  const path = '/tmp/encrypted.img'
  writeFileSync(path, '')
  truncateSync(path, 32 * 2 ** 20)
  const key = randomBytes(64)
  const words = 'a text that must not be found in the file'
  const on = async (options: { path: string; key: Uint8Array }, script: string): Promise<string> => {
    await using disk = await UblkDevice.create({ backend: worker(example('encrypted-disk'), options) })
    return await sh(script, disk.path, words)
  }
  const write = `mkfs.ext4 -q "$1"; mkdir -p /tmp/plain; mount "$1" /tmp/plain
    echo "$2" >/tmp/plain/secret; umount /tmp/plain`
  const read = 'mount "$1" /tmp/plain; cat /tmp/plain/secret; umount /tmp/plain; fsck.ext4 -fn "$1" >&2'
  await on({ path, key }, write)
  t.false(readFileSync(path).includes(words))
  t.is((await on({ path, key }, read)).trim(), words)
  await t.throwsAsync(on({ path, key: randomBytes(64) }, read), { message: /wrong fs type|superblock/ })
  rmSync(path)
})

test('flaky-disk: delays and errors come when they are asked for', async t => {
  const { flaky } = (await import(
    example('flaky-disk').href
  )) as typeof import('../../examples/flaky-disk.js')
  const knobs: Parameters<typeof flaky>[1] = { delay: 0, fail: () => undefined }
  await using disk = await UblkDevice.create({ backend: flaky(2 ** 20, knobs) })
  disk.on('error', () => {})
  const dd = async (): Promise<string> =>
    (await result(shell('dd if=/dev/zero of="$1" bs=4k count=1 oflag=direct', disk.path))).stderr
  t.notRegex(await dd(), /error|No space/)
  knobs.fail = ({ op }) => (op === 'write' ? 'ENOSPC' : undefined)
  t.regex(await dd(), /No space left on device/)
  knobs.fail = () => undefined
  knobs.delay = 150
  const start = performance.now()
  t.notRegex(await dd(), /error|No space/)
  t.true(performance.now() - start >= 150)
})

test('boot-clones: each system starts from the image, and has its own files', async t => {
  const out = await sh(
    `cd "$(mktemp -d)"; mkdir -p root/bin root/sbin root/etc root/proc; cp "$(command -v busybox)" root/bin/busybox
    ln -s busybox root/bin/sh; ln -s busybox root/bin/cat; ln -s busybox root/bin/hostname; echo new >root/etc/state
    cat >root/sbin/init <<'END'
#!/bin/sh
# Each has seen the state of the others by then, if it is theirs.
echo "$$ $(hostname) $(cat /etc/state)"; echo "of $(hostname)" >/etc/state; /bin/busybox sleep 0.5; cat /etc/state
END
    chmod +x root/sbin/init; mkfs.ext4 -q -d root image 8M >&2; sha256sum image >sum
    node "$1" image 3; sha256sum --quiet -c sum`,
    fileURLToPath(example('boot-clones')),
  )
  const clones = ['clone-1', 'clone-2', 'clone-3']
  t.deepEqual(
    out.trim().split('\n').sort(),
    [...clones.map(name => `1 ${name} new`), ...clones.map(name => `of ${name}`)].sort(),
  )
})
