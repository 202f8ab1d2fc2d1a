// The disks that are measured, by name. Each has a path, the pid of its server if it has one, place(), kill() and stop().

import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { SPAN } from './fio.js'
import { startLogWrites } from './peers/dm-log-writes.js'
import { startSnapshot } from './peers/dm-snapshot.js'
import { startGo } from './peers/go-ublk.js'
import { dropScheduler, startLoop, startNullBlock } from './peers/kernel.js'
import { startKublk } from './peers/kublk.js'
import { startNbd, startNbdOurs } from './peers/nbd.js'
import { startOurs } from './peers/ours.js'
import { startRublk } from './peers/rublk.js'
import { Absent, within } from './server.js'

const execute = promisify(execFile)

/** What all get. */
const SHAPE = { bytes: SPAN * 2 ** 20, queues: 1, depth: 128 }

/** By a name or its first word: who starts such disks, and the program of vm/peers that it takes. */
const PEERS = {
  kublk: { start: startKublk, takes: 'kublk' },
  rublk: { start: startRublk, takes: 'rublk' },
  go: { start: startGo, takes: 'go-ublk' },
  nbd: { start: startNbd },
  nbdkit: { start: startNbd },
  // Ours, with such a server.
  client: { start: startNbdOurs },
  loop: { start: startLoop },
  dm: { start: startSnapshot },
  'dm-log-writes': { start: startLogWrites },
  'null-block': { start: startNullBlock },
  // Ours, as another build has them.
  other: { start: ([, ...words], options) => startOurs(words, options), takes: 'other' },
}
const peerOf = name => PEERS[name] ?? PEERS[name.split('-')[0]]

/** The program of vm/peers that a disk takes, if it takes one. */
export function programOf(name) {
  return peerOf(name)?.takes
}

/** Whether a disk keeps all that was written, and so is made anew in each round. */
export function isKeeping(name) {
  return /-new$|^dm-log-writes/.test(name)
}

/** Whether a disk is ours. */
export function isOurs(name) {
  return peerOf(name) === undefined
}

/**
 * Starts a disk. `programs` has those of vm/peers: each its path, or why it is not there. `shape` is what differs from
 * what all get.
 */
export async function start(name, { programs, fileOn, shape, env }) {
  const peer = peerOf(name) ?? { start: startOurs }
  const program = peer.takes && programs[peer.takes]
  if (program?.why) throw new Absent(program.why)
  const words = name.split('-')
  const disk = await peer.start(
    words.filter(word => word !== 'none'),
    {
      program: program?.path,
      shape: { ...SHAPE, ...shape },
      fileOn,
      env,
    },
  )
  if (words.includes('none')) dropScheduler(disk.path)
  // Files are full already, and null disks never are. What is to be new stays so.
  const stays = /null|kublk|loop|file|qcow2|stripe|slices|fresh|sparse/.test(name) || isKeeping(name)
  if (!stays) await fill(disk)
  // A server that binds its threads itself knows what it does.
  const movable = disk.pid !== undefined && disk.cpu === undefined
  return {
    ...disk,
    name,
    /** Lets its server run on these CPUs only. */
    place: async cpus => {
      if (movable) await execute('taskset', ['-a', '-c', '-p', cpus, `${disk.pid}`])
    },
  }
}

/** Makes it a disk in use: its memory is there, and reading it is not reading the one page of zeroes. */
async function fill(disk) {
  const words = ['if=/dev/zero', `of=${disk.path}`, 'bs=1M', `count=${SPAN}`, 'oflag=direct']
  try {
    await within(60_000, execute('dd', words))
  } catch (error) {
    disk.kill?.()
    await disk.stop()
    throw error
  }
}
