// seconds: 60
/**
 * NBD servers are killed, stopped and continued, and the disk's own server is killed, while fio verifies. UBLK_TS_KILLS sets how often
 * an NBD server is killed (default: 4); the disk's server is killed a quarter as often. For 200:
 * UBLK_TS_KILLS=200 vm/run --cpus 2 --timeout 1800 npx ava --timeout 30m dist-test/kernel/nbd-lost.test.js
 */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { UblkDevice } from 'ublk-ts'
import { Detached, leaveNoServerBehind } from '../support/detached.js'
import { NbdServer, verify } from '../support/nbd-server.js'
import { result, run, sh, shell } from '../support/program.js'
import { SLOWNESS, until } from '../support/server.js'

leaveNoServerBehind(test)

const KILLS = Number(process.env['UBLK_TS_KILLS'] ?? 4)
const DIR = mkdtempSync('/dev/shm/nbd-lost-')
const SOCKET = `${DIR}/socket`
const URI = `nbd+unix:///?socket=${SOCKET}`
const IMAGE = `${DIR}/image`
/** It keeps what was written apart until a flush, and loses that when it is killed. */
const LOSES = `--filter=cache file ${IMAGE} cache=writeback`

/**
 * Writes all blocks, flushes, and looks whether a flush that succeeded has put them into the image. Prints how many did, and how many
 * failed. Makes a file after the first.
 */
const FLUSHES = `
import mmap, os, sys
disk, image, stop = sys.argv[1:]
blocks, size = 64, 4096
out, data = os.open(disk, os.O_RDWR | os.O_DIRECT), mmap.mmap(-1, size)
kept = failed = number = 0
while not os.path.exists(stop):
    number += 1
    for block in range(blocks):
        data[:] = number.to_bytes(8, 'big') * (size // 8)
        os.pwrite(out, data, block * 7 * size)
    try:
        os.fsync(out)
    except OSError:
        failed += 1
        continue
    with open(image, 'rb') as there:
        for block in range(blocks):
            there.seek(block * 7 * size)
            if there.read(size) != data[:]:
                sys.exit(f'a flush lied: block {block} is not there in round {number}')
    kept += 1
    open(stop + '-later', 'w').close()
print(kept, failed)
`

test.beforeEach(() => sh('rm -f "$1" "$2/stop"; truncate -s 64M "$1"', IMAGE, DIR))
test.after.always(() => rmSync(DIR, { recursive: true }))

/** Kills the NBD server that often, at any moments, and starts it again. */
async function killAndStart(server: NbdServer, kills: number): Promise<void> {
  for (let kill = 0; kill < kills; kill++) {
    await sleep(100 + Math.random() * 300)
    await server.kill()
    await sleep(Math.random() * 100)
    await server.start()
  }
}

/** Checks the disk's data until `action` is done; what fio has said of a failure. */
async function verifying(path: string, action: () => Promise<void>): Promise<string> {
  let done = false
  const rounds = async (): Promise<string> => {
    let said = ''
    while (!done && said === '') said = await verify(path, '--loops=2')
    return said
  }
  const load = rounds()
  try {
    await action()
  } finally {
    done = true
  }
  return await load
}

const said = (disk: Detached): string => disk.log.map(line => line.message ?? line.msg ?? '').join('\n')

test.serial(
  'with a journal no request fails, and nothing is lost, over many kills of the server',
  async t => {
    t.timeout(600_000 + KILLS * 5000 * SLOWNESS)
    await using server = await NbdServer.nbdkit(LOSES, SOCKET)
    const disk = await Detached.create(`--nbd ${URI} --journal 8M`)
    const device = await UblkDevice.open(disk.id)
    t.is(await verifying(disk.path, async () => await killAndStart(server, KILLS)), '')
    t.is((await device.totals()).errors, 0)
    const connection = await device.connection()
    // Fewer than kills: one may come before the connection is made again.
    t.true((connection?.lost ?? 0) > 0, JSON.stringify(connection))
    t.is(connection?.reconnects, connection?.lost)
    t.is(connection?.losses, 0)
    t.log(`${KILLS} kills: ${JSON.stringify(connection)}`)
    // All is in the file after a flush.
    await sh(
      'python3 -c "import os,sys; os.fsync(os.open(sys.argv[1], os.O_RDWR))" "$1"; cmp "$1" "$2"',
      disk.path,
      IMAGE,
    )
    t.is((await run('delete', disk.path)).status, 0)
  },
)

test.serial('without a journal no flush that succeeds has lied, over many kills of the server', async t => {
  t.timeout(600_000 + KILLS * 5000 * SLOWNESS)
  await using server = await NbdServer.nbdkit(LOSES, SOCKET)
  const disk = await Detached.create(`--nbd ${URI}`)
  writeFileSync(`${DIR}/flushes.py`, FLUSHES)
  const load = result(shell('exec python3 "$2/flushes.py" "$1" "$2/image" "$2/stop"', disk.path, DIR))
  await until(() => existsSync(`${DIR}/stop-later`), 'something is flushed')
  await killAndStart(server, KILLS)
  writeFileSync(`${DIR}/stop`, '')
  const { status, stdout, stderr } = await load
  t.is(status, 0, stderr)
  const [kept = 0, failed = 0] = stdout.split(' ').map(Number)
  t.true(kept > 0, stdout)
  t.log(`${KILLS} kills: ${kept} flushes kept their promise, ${failed} failed`)
  t.is((await run('delete', disk.path)).status, 0)
})

test.serial("with recovery reissue nothing fails over many kills of the disk's server", async t => {
  const kills = Math.max(2, Math.ceil(KILLS / 4))
  t.timeout(600_000 + kills * 10_000 * SLOWNESS)
  // nbdkit 1.32 may fail an assertion of its own when a client is killed that it answers.
  await using _server = await NbdServer.start(`qemu-nbd -t -e 16 -k ${SOCKET} -f raw ${IMAGE}`, SOCKET)
  const disk = await Detached.create(`--nbd ${URI} --recovery reissue`)
  const failed = await verifying(disk.path, async () => {
    for (let kill = 0; kill < kills; kill++) {
      await sleep(100 + Math.random() * 500)
      await disk.signal('SIGKILL')
      const recovered = { status: 0, signal: null, stdout: `${disk.path}\n`, stderr: '' }
      t.deepEqual(await run('recover', disk.path), recovered)
    }
  })
  t.is(failed, '')
  t.log(`${kills} kills`)
  t.is((await run('delete', disk.path)).status, 0)
})

/** What `show` says of the connection. */
async function connectionOf(t: ExecutionContext, { path }: Detached): Promise<string> {
  const { status, stdout } = await run('show', '--output', 'CONNECTION', path)
  t.is(status, 0)
  return stdout.trim()
}

test.serial(
  'a server that is stopped and goes on is used again, before and after it counts as lost',
  async t => {
    await using server = await NbdServer.nbdkit(`file ${IMAGE}`, SOCKET)
    const disk = await Detached.create(`--nbd ${URI} --nbd-timeout 8 --journal 8M`)
    const failed = await verifying(disk.path, async () => {
      await sleep(300)
      server.signal('SIGSTOP')
      await sleep(2000)
      t.regex(await connectionOf(t, disk), /^CONNECTION +connected; \d+ writes/)
      server.signal('SIGCONT')
      await sleep(500)
      t.notRegex(said(disk), /is lost/)
      server.signal('SIGSTOP')
      await until(
        async () => /not connected; lost 1, /.test(await connectionOf(t, disk)),
        'it counts as lost',
      )
      server.signal('SIGCONT')
      await until(
        async () => / connected; lost 1, made again 1/.test(await connectionOf(t, disk)),
        'it is back',
      )
    })
    t.is(failed, '')
    t.regex(said(disk), /is lost: nothing has come from it for 8 s/)
    const { stdout } = await run('stats', '--json', '--output', 'CONNECTION', disk.path)
    const [stats] = JSON.parse(stdout).stats
    t.like(stats.connection, { servers: 1, connected: 1, lost: 1, reconnects: 1, journalMax: 8 * 2 ** 20 })
    t.regex((await run('metrics')).stdout, /^ublk_nbd_reconnects_total\{device="ublkb\d+"\} 1$/m)
    t.is((await run('delete', disk.path)).status, 0)
  },
)

test.serial(
  'of a server that is stopped for good, requests fail after their time, and the disk can be deleted',
  async t => {
    await using server = await NbdServer.nbdkit(`file ${IMAGE}`, SOCKET)
    const disk = await Detached.create(`--nbd ${URI} --nbd-timeout 2`)
    await sh('dd if=/dev/zero of="$1" bs=4K count=4 oflag=direct conv=fsync status=none', disk.path)
    server.signal('SIGSTOP')
    const began = performance.now()
    await t.throwsAsync(sh('dd if="$1" of=/dev/null bs=4K count=1 iflag=direct status=none', disk.path), {
      message: /Input\/output error/,
    })
    const seconds = (performance.now() - began) / 1000
    t.true(seconds > 3, `${seconds} s`)
    t.regex(said(disk), /nothing has come from it for 2 s[\s\S]*no connection for 2 s/)
    t.regex(await connectionOf(t, disk), /not connected/)
    t.is((await run('delete', disk.path)).status, 0)
  },
)
