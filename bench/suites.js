// What is measured: which disks, in which workloads, and what each is compared with.

import { RACE } from './race.js'
import { BUILDS, CRASHES, FAULTS, IMAGES, NBD, OVERLAYS, STACKS } from './stacks.js'

const at = (pattern, block, depths) => depths.map(depth => `${pattern}-${block}-${depth}`)
const random = depths => ['randread', 'randwrite'].flatMap(pattern => at(pattern, '4k', depths))

/**
 * A suite measures in heats: the disks of one are there together, and its rounds alternate between them. `disks` are in
 * the order of measuring, so that what is compared is measured next to each other. `targets` has the disk whose figures
 * are divided, and the one by whose they are. `measures` tells which workloads a disk has, all without it. `keeps`: some of
 * the disks keep all that is written to them, so a round has a size and not a time.
 */
export const SUITES = {
  /** The engine's own disks against the server of the kernel's self-tests. */
  engine: {
    parts: ['io', 'calls', 'create', 'memory'],
    heats: {
      engine: {
        workloads: random(['1', '1-pinned', '64']),
        disks: ['null', 'kublk', 'memory'],
        targets: { null: ['null', 'kublk'], memory: ['memory', 'kublk'] },
      },
    },
    memory: '2G',
  },
  /** Disks whose threads serve others too, alone and among 63 idle ones, against one with a thread of its own. */
  threads: {
    parts: ['io', 'calls', 'many'],
    heats: {
      threads: {
        workloads: random(['1', '1-pinned', '64']),
        disks: ['memory', 'shared', 'crowd'],
        targets: { shared: ['shared', 'memory'], crowd: ['crowd', 'memory'] },
      },
    },
    memory: '8G',
  },
  /** Disks written in JavaScript against the engine's own, and against what NBD makes of the same. */
  js: {
    parts: ['io', 'calls'],
    heats: {
      js: {
        workloads: [
          ...random(['64', '1', '1-pinned']),
          ...['read', 'write'].flatMap(pattern => at(pattern, '128k', ['8'])),
        ],
        disks: [
          'js-async',
          'js-batch',
          'memory',
          'js-sync',
          'nbd-node',
          'null-block',
          'nbdkit-memory',
          'nbdkit-python',
        ],
        targets: {
          'js-sync': ['js-sync', 'memory'],
          'js-batch': ['js-batch', 'memory'],
          'js-async': ['js-async', 'memory'],
          'nbd-node': ['js-sync', 'nbd-node'],
          // How much faster than that one any disk can be.
          'null-block': ['null-block', 'nbd-node'],
          'nbdkit-memory': ['js-sync', 'nbdkit-memory'],
          'nbdkit-python': ['js-sync', 'nbdkit-python'],
        },
        // A request costs NBD so much that less of it tells enough.
        measures: (disk, { depth }) => depth === 64 || !/^nbd|^null-block$/.test(disk),
      },
    },
    memory: '6G',
  },
  race: RACE,
  stacks: STACKS,
  faults: FAULTS,
  crash: CRASHES,
  builds: BUILDS,
  images: IMAGES,
  /** Our NBD client against the kernel's. */
  nbd: NBD,
  /** How long it takes to make disks and to delete them. */
  attach: { parts: ['attach'], heats: {}, memory: '6G' },
  overlay: OVERLAYS,
  /** Disks in an object store. */
  s3: {
    parts: ['flush', 'cold', 'bytes', 'open', 'warm', 'peers', 'idle'],
    heats: {},
    tolerant: true,
    memory: '8G',
  },
  /** How our cost grows with what is asked, beside kublk's: each part is a table of its own. */
  growth: { parts: ['cpu', 'memory', 'queues'], heats: {}, memory: '4G' },
}

/** All targets of a suite. */
export function targetsOf(suite) {
  return Object.values(SUITES[suite].heats).flatMap(({ targets }) => Object.keys(targets))
}

/** The heats of a run, each with the disks that its targets take and the workloads that are wanted. */
export function heatsOf({ suite, targets, workloads }) {
  return Object.entries(SUITES[suite].heats).flatMap(([name, heat]) => {
    const pairs = targets.flatMap(target => (heat.targets[target] ? [heat.targets[target]] : []))
    const wanted = new Set(pairs.flat())
    const disks = heat.disks.filter(disk => wanted.has(disk))
    const measures = heat.measures ?? (() => true)
    const shape = { workloads: workloads ?? heat.workloads, measures, keeps: heat.keeps ?? false }
    return pairs.length > 0 ? [{ name, pairs, disks, ...shape }] : []
  })
}
