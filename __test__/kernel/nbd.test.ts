// processors: 1 and 2
// seconds: 35
/** Disks that servers of the network block device protocol have: nbdkit and qemu-nbd, which are killed. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { Detached, leaveNoServerBehind } from '../support/detached.js'
import { NbdServer, verify } from '../support/nbd-server.js'
import { onTwo, test } from '../support/processors.js'
import { result, run, sh, shell } from '../support/program.js'
import { Server, until } from '../support/server.js'

leaveNoServerBehind(test)

const KILLS = Number(process.env['UBLK_TS_KILLS'] ?? 3)
const DIR = mkdtempSync('/dev/shm/nbd-')
const SOCKET = `${DIR}/socket`
const UNIX = `nbd+unix:///?socket=${SOCKET}`
const IMAGE = `${DIR}/image`
/** It keeps what was written apart until a flush, and loses that when it is killed. */
const LOSES = `--filter=cache file ${IMAGE} cache=writeback`

test.beforeEach(() => sh('rm -f "$1"; truncate -s 64M "$1"', IMAGE))
test.after.always(() => rmSync(DIR, { recursive: true }))

test.serial('ext4 on nbdkit in memory holds a source tree, trims, and is clean afterwards', async t => {
  await using _server = await NbdServer.nbdkit('memory 96M', SOCKET)
  await Server.with(`--nbd ${UNIX}`, async ({ path }) => {
    t.is(await verify(path), '')
    await sh(
      `mkfs.ext4 -qF "$1"; mkdir -p "$2/mnt"; mount "$1" "$2/mnt"; cp -r node_modules/ava node_modules/@types "$2/mnt"
       umount "$2/mnt"; mount "$1" "$2/mnt"
       for tree in ava @types; do diff -r "node_modules/$tree" "$2/mnt/$tree"; done`,
      path,
      DIR,
    )
    t.regex(await sh('rm -r "$1/mnt/@types"; sync; fstrim -v "$1/mnt"', DIR), /bytes\) trimmed/)
    await sh('umount "$2/mnt"; e2fsck -fn "$1"', path, DIR)
  })
})

onTwo.serial('two queues verify what they wrote to a file that nbdkit serves over TCP', async t => {
  await using _server = await NbdServer.start(`nbdkit -f -i 127.0.0.1 -p 10809 file ${IMAGE}`, 10809)
  await Server.with('--nbd nbd://127.0.0.1/ --queues 2', async ({ path }) => {
    t.is(await verify(path, '--numjobs=2 --offset_increment=32m'), '')
  })
})

test.serial('a disk on qemu-nbd has what was written', async t => {
  await sh('qemu-img create -q -f qcow2 "$1.qcow2" 64M', IMAGE)
  await using _server = await NbdServer.start(`qemu-nbd -t -e 4 -k ${SOCKET} -f qcow2 ${IMAGE}.qcow2`, SOCKET)
  await Server.with(`--nbd ${UNIX}`, async ({ path }) => t.is(await verify(path), ''))
})

onTwo.serial('a disk of a server without CAN_MULTI_CONN has one queue', async t => {
  const single = '--filter=multi-conn memory 16M multi-conn-mode=disable'
  await using _server = await NbdServer.nbdkit(single, SOCKET)
  const { status, stderr } = await run('create', '--detach', '--nbd', UNIX, '--queues', '2')
  t.is(status, 1)
  t.regex(stderr, /^ublk-ts: .*CAN_MULTI_CONN[^\n]*\n$/)
  await Server.with(`--nbd ${UNIX} --queues 1`, async ({ path }) =>
    t.is(await verify(path, '--size=12m'), ''),
  )
})

test.serial(
  'with a journal nothing fails and nothing is lost when the server is killed under load',
  async t => {
    await using server = await NbdServer.nbdkit(LOSES, SOCKET)
    const disk = await Detached.create(`--nbd ${UNIX} --journal 8M`)
    let failed: string | undefined
    const load = verify(disk.path, '--loops=8').then(said => {
      failed = said
    })
    for (let kill = 0; kill < KILLS; kill++) {
      await sleep(400)
      await server.kill()
      await sleep(100)
      await server.start()
    }
    await load
    t.is(failed, '')
    // What was flushed is in the file.
    await sh(
      'dd if=/dev/urandom of="$2/data" bs=1M count=4 status=none; dd if="$2/data" of="$1" bs=64K oflag=direct status=none',
      disk.path,
      DIR,
    )
    await server.kill()
    await server.start()
    await sh('sync "$1"; cmp -n 4194304 "$2/data" "$2/image"', disk.path, DIR)
    const said = disk.log.map(line => line.message ?? line.msg ?? '').join('\n')
    t.regex(said, /the connection to the NBD server at .*socket is lost/)
    t.regex(said, /connected to .*socket again/)
    t.is((await run('delete', disk.path)).status, 0)
  },
)

test.serial('without a journal the next flush fails once, and what was flushed before is there', async t => {
  await using server = await NbdServer.nbdkit(LOSES, SOCKET)
  const disk = await Detached.create(`--nbd ${UNIX}`)
  const write = (letter: string, words: string): Promise<string> =>
    sh(
      // Of a short block dd makes a buffered one, which it syncs.
      `head -c 65536 /dev/zero | tr '\\0' ${letter} | dd of="$1" bs=64K iflag=fullblock oflag=direct ${words} status=none`,
      disk.path,
    )
  const flush = 'python3 -c "import os,sys; os.fsync(os.open(sys.argv[1], os.O_RDWR))" "$1"'
  await write('a', 'conv=fsync')
  await write('b', 'seek=1')
  await server.kill()
  t.is(readFileSync(IMAGE).subarray(65536, 65537).toString(), '\0', 'this server loses what was not flushed')
  await server.start()
  await t.throwsAsync(sh(flush, disk.path), { message: /Input\/output error/ })
  await sh(flush, disk.path)
  t.is(readFileSync(IMAGE).subarray(0, 1).toString(), 'a')
  t.is((await run('delete', disk.path)).status, 0)
})

test.serial('a disk with a killed server of its own is taken over, and upgraded, under load', async t => {
  // nbdkit 1.32 may fail an assertion of its own when a client is killed that it answers.
  await using _server = await NbdServer.start(`qemu-nbd -t -e 4 -k ${SOCKET} -f raw ${IMAGE}`, SOCKET)
  const disk = await Detached.create(`--nbd ${UNIX} --recovery reissue`)
  const load = verify(disk.path, '--loops=6')
  await disk.changeServers(t)
  t.is(await load, '')
  t.is((await run('delete', disk.path)).status, 0)
})

test.serial('a disk gets the size to which its export has grown, under load', async t => {
  await using server = await NbdServer.nbdkit(`file ${IMAGE}`, SOCKET)
  const disk = await Detached.create(`--nbd ${UNIX}`)
  const load = verify(disk.path, '--loops=2')
  const refused = async (size: string, message: RegExp): Promise<void> => {
    const { status, stderr } = await run('resize', disk.path, size)
    t.is(status, 1)
    t.regex(stderr, message)
  }
  await refused('96M', /^ublk-ts: the NBD server at .* has 67108864 bytes, not 100663296; [^\n]*\n$/)
  await sh('truncate -s 96M "$1"', IMAGE)
  t.is((await run('resize', disk.path, '96M')).status, 0)
  t.is(await load, '')
  t.is(await sh('blockdev --getsize64 "$1"', disk.path), `${96 * 2 ** 20}\n`)
  t.is(await verify(disk.path, '--offset=64m'), '')
  // One that comes back larger is used, and tells it; one that comes back smaller is not.
  await server.kill()
  await sh('truncate -s 128M "$1"', IMAGE)
  await server.start()
  t.is(await verify(disk.path), '')
  t.is((await run('resize', disk.path, '128M')).status, 0)
  t.is((await run('delete', disk.path)).status, 0)
})

test.serial('a disk whose server comes back smaller waits, fails, and goes on at that size', async t => {
  await using server = await NbdServer.nbdkit(`file ${IMAGE}`, SOCKET)
  const disk = await Detached.create(`--nbd ${UNIX} --nbd-timeout 1`)
  await sh('sync "$1"', disk.path)
  await server.kill()
  await sh('truncate -s 32M "$1"', IMAGE)
  await server.start()
  const write = 'dd if=/dev/zero of="$1" bs=4k count=1 oflag=direct status=none'
  await t.throwsAsync(sh(write, disk.path), { message: /Input\/output error/ })
  const said = (): string => disk.log.map(line => line.message ?? line.msg ?? '').join('\n')
  t.regex(said(), /it has 33554432 bytes now, fewer than the disk, which has 67108864/)
  t.is((await run('resize', disk.path, '32M')).status, 0)
  await until(async () => (await result(shell(write, disk.path))).status === 0, 'it is connected again')
  t.is(await verify(disk.path), '')
  t.is((await run('delete', disk.path)).status, 0)
})

test.serial('what cannot be is refused in one line, and the name of an export is not shown', async t => {
  const refused = async (words: string, message: RegExp): Promise<void> => {
    const { status, stderr } = await run('create', '--detach', ...words.split(' '))
    t.not(status, 0)
    t.regex(stderr, message)
  }
  await refused(`--nbd ${UNIX}`, /cannot use the NBD server at .*socket: .*(No such file|refused)/)
  await refused('--nbd nbds://server/', /needs TLS/)
  await refused('--nbd http://server/', /no URI of an NBD server/)
  await using _server = await NbdServer.nbdkit(`-r file ${IMAGE}`, SOCKET)
  await refused(`--nbd ${UNIX}`, /for reading only/)
  const disk = await Detached.create(`--nbd nbd+unix:///planted-secret?socket=${SOCKET} --read-only`)
  for (const words of ['list', 'show', 'list --json', 'show --json']) {
    const { stdout } = await run(...words.split(' '), ...(words.startsWith('show') ? [disk.path] : []))
    t.notRegex(stdout, /planted-secret/, words)
    t.regex(stdout, /socket/, words)
  }
  t.is((await run('delete', disk.path)).status, 0)
})
