// Disks of ublk-ts: those of the engine through the command line, and those that a program of ours serves.

import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { cli, serve } from '../server.js'

const javascript = join(import.meta.dirname, '../disks/js.js')
const crowd = join(import.meta.dirname, '../disks/crowd.js')

/** What the words behind a disk's name ask for; without one, `create` decides. */
const OPTIONS = {
  perio: ['--transport', 'per-io'],
  batch: ['--transport', 'batch'],
  copy: ['--copy', 'copy'],
  user: ['--copy', 'user'],
  zero: ['--copy', 'zero'],
  poll: ['--poll', '50'],
}

/** `null`, `memory`, `file-…` with options behind; `js-sync` and so on; `shared` and `crowd`. `bound`: to one CPU. */
export async function startOurs([kind, ...given], { shape, fileOn, env }) {
  const { bytes, queues, depth } = shape
  const words = given.filter(word => word !== 'bound')
  const bound = words.length < given.length ? ['taskset', '-c', `${availableParallelism() - 1}`] : []
  const program = {
    js: [javascript, `js-${words[0]}`, bytes, depth, ...words.slice(1).flatMap(word => OPTIONS[word])],
    shared: [crowd, 0, bytes, depth],
    crowd: [crowd, 63, bytes, depth],
  }[kind]
  const serveThis = command => serve([...bound, process.execPath, ...command.map(String)], { env })
  if (program) return await serveThis(program)
  const backend = {
    null: () => ['--null', bytes],
    memory: () => ['--mem', bytes],
    file: async () => ['--file', await fileOn(words.shift()), '--direct'],
  }
  const disk = await backend[kind]()
  const maxIo = shape.maxIo ?? (kind === 'file' ? '1M' : '512K') // a file's as kublk and rublk have them
  const form = ['--queues', queues, '--depth', depth, '--max-io', maxIo]
  return await serveThis([cli, 'create', ...disk, ...form, ...words.flatMap(word => OPTIONS[word])])
}
