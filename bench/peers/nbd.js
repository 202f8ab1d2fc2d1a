// What one would use today: a server of the network block device protocol, and the kernel's client for it.

import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { clustersOn, imageOn } from '../files.js'
import { Absent, cli, serve } from '../server.js'
import { dropScheduler } from './kernel.js'

const execute = promisify(execFile)
const inDisks = name => join(import.meta.dirname, '../disks', name)
const nbdkit = (socket, ...words) => ['nbdkit', '-f', '-U', socket, ...words]

/** A server of an image over a base, which others use, too. */
async function overBase(socket, where, fileOn) {
  const { base, image } = await clustersOn(where, fileOn)
  const below = `backing.driver=raw,backing.file.driver=file,backing.file.filename=${base},backing.file.locking=off`
  return ['qemu-nbd', '-t', '-k', socket, '--image-opts', `driver=qcow2,file.filename=${image},${below}`]
}

const SERVERS = {
  'nbd-node': (socket, bytes) => [process.execPath, inDisks('nbd-server.js'), socket, `${bytes}`],
  // A server of ours uses the image, too: neither changes where its clusters are.
  'nbd-qcow2': async (socket, _bytes, fileOn) => {
    const image = `driver=qcow2,file.locking=off,file.filename=${await imageOn('tmpfs', fileOn)}`
    return ['qemu-nbd', '-t', '-k', socket, '--image-opts', image]
  },
  'nbd-fresh-tmpfs': (socket, _bytes, fileOn) => overBase(socket, 'tmpfs', fileOn),
  'nbd-fresh-ext4': (socket, _bytes, fileOn) => overBase(socket, 'ext4', fileOn),
  'nbd-present-tmpfs': (socket, _bytes, fileOn) => overBase(socket, 'tmpfs', fileOn),
  'nbdkit-null': (socket, bytes) => nbdkit(socket, 'null', `${bytes}`),
  'nbdkit-memory': (socket, bytes) => nbdkit(socket, 'memory', `${bytes}`),
  'nbdkit-python': (socket, bytes) => nbdkit(socket, 'python', inDisks('nbdkit-disk.py'), `size=${bytes}`),
}

let started = 0

/** Starts a server, and waits until it listens. */
async function startServer(name, { shape, fileOn, env }) {
  const socket = `/tmp/${name}-${++started}.sock`
  const [program, ...rest] = await SERVERS[name](socket, shape.bytes, fileOn)
  const server = spawn(program, rest, {
    stdio: ['ignore', 'ignore', 'inherit'],
    env: { ...process.env, ...env },
  })
  while (!listens(socket)) {
    if (server.exitCode !== null) throw new Absent('it ended before it was ready')
    await sleep(50)
  }
  const end = async () => {
    server.kill()
    if (server.exitCode === null) await once(server, 'exit')
  }
  return { socket, server, end }
}

/** Starts a server, and makes a disk of ours that is its client. */
export async function startNbdOurs([, ...words], options) {
  const { socket, end } = await startServer(['nbdkit', ...words].join('-'), options)
  const { queues, depth } = options.shape
  const form = ['--queues', queues, '--depth', depth, '--max-io', '512K'].map(String)
  const uri = `nbd+unix:///?socket=${socket}`
  const disk = await serve([process.execPath, cli, 'create', '--nbd', uri, ...form], options)
  return {
    ...disk,
    stop: async () => {
      await disk.stop()
      await end()
    },
  }
}

/** Starts a server, and connects a disk of the kernel's with it. */
export async function startNbd(words, options) {
  const { socket, server, end } = await startServer(words.join('-'), options)
  const disk = readdirSync('/sys/block').find(
    block => /^nbd/.test(block) && !existsSync(`/sys/block/${block}/pid`),
  )
  const path = `/dev/${disk}`
  await execute('nbd-client', ['-unix', socket, path])
  dropScheduler(path) // as our disks have it
  return {
    path,
    pid: server.pid,
    kill: () => server.kill('SIGKILL'),
    stop: async () => {
      await execute('nbd-client', ['-d', path])
      await end()
    },
  }
}

function listens(socket) {
  return readFileSync('/proc/net/unix', 'utf8').includes(` ${socket}\n`)
}
