// Disks in the object store: ours, and what others make of it.

import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { Absent, cli, serve } from '../server.js'
import { BUCKET, ENDPOINT, KEYS } from '../store-server.js'
import { dropScheduler } from './kernel.js'

const execute = promisify(execFile)
const DIR = '/tmp/bench-store'
let made = 0

/** Ours. `cold`: it has nothing in its cache. */
export async function startVolume(name, size, { durable = 'object', cold = false, cache = '1G' } = {}) {
  const dir = `${DIR}/cache-${cold ? ++made : name}`
  const words = [
    '--s3',
    `s3://${BUCKET}/${name}`,
    '--cache',
    dir,
    '--cache-max',
    cache,
    '--volume-size',
    size,
  ]
  return await serve([process.execPath, cli, 'create', ...words, '--durable', durable, '--queues', '1'], {
    env: KEYS,
  })
}

/** nbdkit's plugin, with the kernel's client. */
export async function startNbdkit(name, size) {
  const socket = `/tmp/nbdkit-s3-${++made}.sock`
  const words = [
    `bucket=${BUCKET}`,
    `key=${name}`,
    `size=${size}`,
    'object-size=64K',
    `endpoint-url=${ENDPOINT}`,
  ]
  const keys = [`access-key=${KEYS.AWS_ACCESS_KEY_ID}`, `secret-key=${KEYS.AWS_SECRET_ACCESS_KEY}`]
  const server = spawn('nbdkit', ['-f', '-U', socket, 'S3', ...words, ...keys], {
    env: { ...process.env, ...KEYS },
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  await ready(server, () => existsSync(socket))
  return await withKernel(socket, server)
}

/** s3backer's file, and the kernel's NBD client over it. */
export async function startS3backer(name, size) {
  const [dir, socket] = [`${DIR}/s3backer-${++made}`, `/tmp/s3backer-${made}.sock`]
  mkdirSync(dir, { recursive: true })
  const words = [`--baseURL=${ENDPOINT}/`, '--blockSize=64k', `--size=${size}`, `--prefix=${name}`]
  const keys = [`--accessId=${KEYS.AWS_ACCESS_KEY_ID}`, `--accessKey=${KEYS.AWS_SECRET_ACCESS_KEY}`]
  const mount = spawn('s3backer', ['-f', ...words, ...keys, '--force', BUCKET, dir], {
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  await ready(mount, () => existsSync(`${dir}/file`))
  const server = spawn('nbdkit', ['-f', '-U', socket, 'file', `${dir}/file`], {
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  await ready(server, () => existsSync(socket))
  const disk = await withKernel(socket, server)
  return {
    ...disk,
    stop: async () => {
      await disk.stop()
      await execute('fusermount3', ['-u', dir])
      if (mount.exitCode === null) await once(mount, 'exit')
      rmSync(dir, { recursive: true })
    },
  }
}

async function ready(child, holds) {
  let missing
  child.once('error', error => {
    missing = error
  })
  const end = performance.now() + 20_000
  while (!holds()) {
    if (missing) throw new Absent(missing.message)
    if (child.exitCode !== null) throw new Absent('it ended before it was ready')
    if (performance.now() > end) {
      child.kill('SIGKILL')
      throw new Absent('it is not ready in time')
    }
    await sleep(50)
  }
}

async function withKernel(socket, server) {
  const disk = readdirSync('/sys/block').find(
    block => /^nbd/.test(block) && !existsSync(`/sys/block/${block}/pid`),
  )
  const path = `/dev/${disk}`
  await execute('nbd-client', ['-unix', socket, path])
  dropScheduler(path)
  return {
    path,
    stop: async () => {
      await execute('nbd-client', ['-d', path])
      server.kill()
      if (server.exitCode === null) await once(server, 'exit')
    },
  }
}
