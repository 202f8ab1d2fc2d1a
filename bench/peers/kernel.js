// The kernel's own disks, which need no server: null_blk and loop.

import { execFile } from 'node:child_process'
import { mkdirSync, rmdirSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { promisify } from 'node:util'
import { Absent } from '../server.js'

const execute = promisify(execFile)

/** The disk that keeps nothing and asks nobody: faster than what load and block layer leave to it is none. */
export function startNullBlock([...words], { shape }) {
  return makeNullBlock(words.join('-'), {
    size: shape.bytes / 2 ** 20,
    submit_queues: shape.queues,
    hw_queue_depth: shape.depth,
  })
}

/** A disk of the driver null_blk, as `settings` of its directory in configfs say. */
export function makeNullBlock(name, settings) {
  const dir = `/sys/kernel/config/nullb/${name}`
  const set = (key, value) => writeFileSync(join(dir, key), `${value}`)
  mkdirSync(dir)
  const form = { blocksize: 512, queue_mode: 2, irqmode: 0, ...settings }
  for (const [key, value] of Object.entries(form)) set(key, value)
  set('power', 1)
  const path = `/dev/${name}`
  dropScheduler(path)
  return {
    path,
    stop: () => {
      set('power', 0)
      rmdirSync(dir)
    },
  }
}

/** Takes the I/O scheduler from a disk that the kernel gave one. */
export function dropScheduler(path) {
  writeFileSync(`/sys/block/${basename(path)}/queue/scheduler`, 'none')
}

/** `loop-…`: the kernel's loop device over a file, with direct I/O. */
export async function startLoop([, where], { fileOn }) {
  const { stdout } = await execute('losetup', ['--direct-io=on', '--find', '--show', await fileOn(where)])
  const path = stdout.trim()
  const stop = () => execute('losetup', ['--detach', path])
  const state = await execute('losetup', ['--noheadings', '--output', 'DIO', path])
  if (state.stdout.trim() !== '1') {
    await stop()
    throw new Absent('the loop device does no direct I/O on this file')
  }
  return { path, stop }
}
