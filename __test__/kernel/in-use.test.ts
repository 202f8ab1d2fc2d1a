import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { features, memory, UblkDevice } from 'ublk-ts'
import { leaveNothingBehind } from '../support/devices.js'
import { MAIN, run, sh } from '../support/program.js'
import { Server, until } from '../support/server.js'

leaveNothingBehind(test)

/** Prefix of a command that runs in the background. */
const BACKGROUND = 'exec >/dev/null 2>&1;'
const KILL = 'kill $(</tmp/in-use.pid)'

/** Unmounts it while a file is open. */
const LAZILY = `${BACKGROUND} sleep 1000 9>/tmp/in-use/file & echo $! >/tmp/in-use.pid
  until [ -e /tmp/in-use/file ]; do sleep 0.05; done; umount -l /tmp/in-use`

/** A use of a disk: how it begins, how it ends, and how it is reported. */
const uses: { what: string; begin: string; end: string; said: RegExp }[] = [
  {
    what: 'mounted in another mount namespace',
    begin: `${BACKGROUND} unshare --mount bash -c 'mount "$0" /tmp/in-use; exec sleep 1000' "$1" & echo $! >/tmp/in-use.pid
      until grep -q /tmp/in-use /proc/$(</tmp/in-use.pid)/mountinfo; do sleep 0.05; done`,
    end: KILL,
    said: /mounted on \/tmp\/in-use in the mount namespace of \S+ \(\d+\)/,
  },
  {
    what: 'lazily unmounted and still busy',
    begin: `mount "$1" /tmp/in-use; ${LAZILY}`,
    end: KILL,
    said: /ext4, on no visible mount: perhaps lazily unmounted/,
  },
  {
    what: 'below a mounted loop device',
    begin: 'losetup /dev/loop5 "$1"; mount /dev/loop5 /tmp/in-use',
    end: 'umount /tmp/in-use; losetup -d /dev/loop5',
    said: /used by loop5/,
  },
  {
    what: 'below a device mapper',
    begin: 'dmsetup create in-use --table "0 8192 linear $1 0"',
    end: 'dmsetup remove in-use',
    said: /used by dm-\d+/,
  },
  { what: 'swapped to', begin: 'mkswap -q "$1"; swapon "$1"', end: 'swapoff "$1"', said: /swap/ },
]

async function free(disk: UblkDevice): Promise<void> {
  await until(async () => (await disk.users()).length === 0, 'the disk is free')
}

async function refused(t: ExecutionContext, disk: UblkDevice, said: RegExp): Promise<void> {
  const message = new RegExp(`is in use.*${said.source}`)
  await t.throwsAsync(disk.resize('8M'), { message }, 'shrunk')
  await t.throwsAsync(disk.delete(), { message }, 'deleted')
  await t.throwsAsync(disk.stop(), { message }, 'stopped')
  t.regex((await disk.users()).join(), said)
}

async function refusedByCommands(t: ExecutionContext, disk: UblkDevice, said: RegExp): Promise<void> {
  t.regex((await run('list', '-n', '-o', 'users')).stdout, said)
  const gaveUp = await run('delete', '--wait', '--timeout', '1', disk.path)
  t.is(gaveUp.status, 1)
  const lines = gaveUp.stderr.trimEnd().split('\n')
  t.is(lines.length, 2, gaveUp.stderr)
  t.regex(lines[0] ?? '', new RegExp(`^ublk-ts: [^\\n]*${said.source}.*; waiting$`))
  t.regex(lines[1] ?? '', new RegExp(`still in use after 1 s.*${said.source}`))
}

test('a disk in use is neither removed nor shrunk, whoever uses it and wherever', async t => {
  await sh('mkdir -p /tmp/in-use')
  await using disk = await UblkDevice.create({ backend: memory('64M'), record: true })
  for (const [at, { what, begin, end, said }] of uses.entries()) {
    t.log(what)
    await sh('mkfs.ext4 -q -F "$1"', disk.path)
    await sh(begin, disk.path)
    try {
      await refused(t, disk, said)
      if (at < 2) await refusedByCommands(t, disk, said)
      t.is(disk.size, 64 << 20)
    } finally {
      await sh(end, disk.path)
    }
    await free(disk)
  }
  const [resizes] = (await features()).filter(({ name }) => name === 'UPDATE_SIZE')
  if (!resizes?.supported) return
  await disk.resize('32M')
  t.is(disk.size, 32 << 20)
})

test('a disk that the kernel has in use, and nobody knows by whom, is in use', async t => {
  await using disk = await UblkDevice.create({ backend: memory('64M'), record: true })
  const hold = 'import os, sys, time; os.open(sys.argv[1], os.O_RDONLY | os.O_EXCL); time.sleep(1000)'
  const holder = spawn('python3', ['-c', hold, disk.path])
  await until(async () => /open by python3/.test((await disk.users()).join()), 'the disk is held')
  try {
    // In a PID namespace of its own it sees no other process.
    const hidden = `unshare --pid --fork --mount-proc "$2" "$3" delete "$1" 2>&1 || true`
    t.regex(
      await sh(hidden, disk.path, process.execPath, MAIN),
      /is in use: the kernel says that it is in use; no visible mount or process explains it/,
    )
  } finally {
    holder.kill()
    await once(holder, 'close')
  }
  await free(disk)
})

test('a command that waits for a disk to be free says for what, and again when that changes', async t => {
  const server = await Server.start('--mem 64M')
  await sh('mkdir -p /tmp/in-use; mkfs.ext4 -q "$1"; mount "$1" /tmp/in-use', server.path)
  server.signal('SIGINT')
  await server.said(/still in use \(mounted on \/tmp\/in-use\); waiting/)
  await sh(LAZILY)
  await server.said(/still in use \(ext4, on no visible mount: [^)]*\); waiting/)
  await sleep(500)
  t.is(server.stderr.split('\n').length, 3, server.stderr)
  await sh(KILL)
  t.is((await server.ended).status, 0)
})
