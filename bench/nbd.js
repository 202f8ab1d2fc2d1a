// What one would use today: a server of the network block device protocol, and the kernel's client for it.

import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { SPAN } from './fio.js'

const execute = promisify(execFile)
const inDisks = name => join(import.meta.dirname, 'disks', name)
const BYTES = SPAN * 2 ** 20

const SERVERS = {
  'nbd-node': socket => [process.execPath, inDisks('nbd-server.js'), socket, `${BYTES}`],
  'nbdkit-memory': socket => ['nbdkit', '-f', '-U', socket, 'memory', `${BYTES}`],
  'nbdkit-python': socket => [
    'nbdkit',
    '-f',
    '-U',
    socket,
    'python',
    inDisks('nbdkit-disk.py'),
    `size=${BYTES}`,
  ],
}

/** Starts a server, and connects a disk of the kernel's with it. */
export async function startNbd(name) {
  const socket = `/tmp/${name}.sock`
  const [program, ...words] = SERVERS[name](socket)
  const server = spawn(program, words, { stdio: ['ignore', 'ignore', 'inherit'] })
  while (!listens(socket)) {
    if (server.exitCode !== null) throw new Error(`${name} ended before it was ready`)
    await sleep(50)
  }
  const disk = readdirSync('/sys/block').find(
    block => /^nbd/.test(block) && !existsSync(`/sys/block/${block}/pid`),
  )
  const path = `/dev/${disk}`
  await execute('nbd-client', ['-unix', socket, path])
  writeFileSync(`/sys/block/${disk}/queue/scheduler`, 'none') // as ublk's disks have it
  return {
    path,
    pid: server.pid,
    stop: async () => {
      await execute('nbd-client', ['-d', path])
      server.kill()
      await once(server, 'exit')
    },
  }
}

function listens(socket) {
  return readFileSync('/proc/net/unix', 'utf8').includes(` ${socket}\n`)
}
