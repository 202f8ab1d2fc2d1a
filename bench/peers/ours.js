// Disks of ublk-ts: those of the engine through the command line, and those that a program of ours serves.

import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import {
  CHUNK,
  clustersOn,
  halvesOn,
  imageOn,
  MARGIN,
  makeShared,
  overlayOn,
  SHARED,
  sparseOn,
} from '../files.js'
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
  share: ['--share', SHARED],
}

/** Several disks are over one file, or have one of its halves each: none of them locks it. */
const fileAt = path => ({ kind: 'file', path, direct: true, exclusive: false })

/** Three slices, each of the one before. */
function slices(path) {
  let disk = fileAt(path)
  for (let level = 0; level < 3; level++) disk = { kind: 'slice', disk, offset: `${MARGIN}M` }
  return disk
}

/** The disks that only `--backend` can describe. */
const STACKS = {
  stripe: async (where, fileOn) => ({
    kind: 'stripe',
    chunk: CHUNK,
    disks: (await halvesOn(where, fileOn)).map(fileAt),
  }),
  slices: async (where, fileOn) => slices(await fileOn(where)),
}

async function overlay([where], fileOn) {
  const { base, upper } = await overlayOn(where, fileOn)
  return ['--file', base, '--direct', '--no-exclusive', '--overlay', upper]
}

/** Each of these has a file of its own for what is written. */
const NEW = {
  fresh: overlay,
  present: overlay,
  clusters: async ([, where], fileOn) => {
    const { base, image } = await clustersOn(where, fileOn)
    return ['--qcow2', image, '--backing', base, '--no-exclusive']
  },
  // Written through the page cache, as an upper is.
  sparse: async ([where], fileOn) => ['--file', await sparseOn(where, fileOn), '--no-exclusive'],
}

/**
 * `null`, `memory`, `faults` (memory with rules, but none), `recorded`, `file-…`, `qcow2-…`, `stripe-…` and `slices-…` with options behind; `js-sync` and so on; `shared` and `crowd`.
 * `fresh-…` and `present-…` are overlays with a new upper, `clusters-…` new qcow2 images over a base, and `sparse-…` a hole.
 * `new`: it is made anew in each round.
 * `bound`: to one CPU. `program` is the command line program of another build, if one is asked for.
 */
export async function startOurs([kind, ...given], { program: main = cli, shape, fileOn, env }) {
  const { bytes, queues, depth } = shape
  const words = given.filter(word => word !== 'bound' && word !== 'new')
  const bound = given.includes('bound') ? ['taskset', '-c', `${availableParallelism() - 1}`] : []
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
    faults: () => [
      '--backend',
      JSON.stringify({ kind: 'faults', rules: [], disk: { kind: 'memory', size: Number(bytes) } }),
    ],
    recorded: () => ['--backend', JSON.stringify({ kind: 'powercut', size: Number(bytes) })],
    file: async () => ['--file', await fileOn(words.shift()), '--direct', '--no-exclusive'],
    qcow2: async () => ['--qcow2', await imageOn(words.shift(), fileOn), '--no-exclusive'],
  }
  const own = NEW[kind] && (await NEW[kind](words.splice(0), fileOn))
  const stack = STACKS[kind] && JSON.stringify(await STACKS[kind](words.shift(), fileOn))
  const disk = own ?? (stack ? ['--backend', stack] : await backend[kind]())
  const overFiles = own || stack || kind === 'file' || kind === 'qcow2'
  const maxIo = shape.maxIo ?? (overFiles ? '1M' : '512K') // as kublk and rublk have them
  const form = ['--queues', queues, '--depth', depth, '--max-io', maxIo]
  const shared = words.includes('share') ? makeShared() : undefined
  const served = await serveThis([main, 'create', ...disk, ...form, ...words.flatMap(word => OPTIONS[word])])
  return { ...served, shared }
}
