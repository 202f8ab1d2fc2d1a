// What is measured: which disks, in which workloads, and what each is compared with.

const at = (pattern, block, depths) => depths.map(depth => `${pattern}-${block}-${depth}`)

export const SUITES = {
  /** The engine's own disks against the server of the kernel's self-tests. */
  engine: {
    parts: ['io', 'calls', 'create', 'memory'],
    workloads: ['randread', 'randwrite'].flatMap(pattern => at(pattern, '4k', ['1', '1-pinned', '64'])),
    // In the order of measuring, so that what is compared is measured next to each other.
    disks: ['null', 'kublk', 'memory'],
    /** Of each target, the disk whose figures are divided, and the one by whose they are. */
    targets: { null: ['null', 'kublk'], memory: ['memory', 'kublk'] },
    memory: '2G',
  },
  /** Disks whose threads serve others too, alone and among 63 idle ones, against one with a thread of its own. */
  threads: {
    parts: ['io', 'calls', 'many'],
    workloads: ['randread', 'randwrite'].flatMap(pattern => at(pattern, '4k', ['1', '1-pinned', '64'])),
    disks: ['memory', 'shared', 'crowd'],
    targets: { shared: ['shared', 'memory'], crowd: ['crowd', 'memory'] },
    memory: '8G',
  },
  /** Disks written in JavaScript against the engine's own, and against what NBD makes of the same. */
  js: {
    parts: ['io', 'calls'],
    workloads: [
      ...['randread', 'randwrite'].flatMap(pattern => at(pattern, '4k', ['64', '1', '1-pinned'])),
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
    memory: '6G',
  },
}

/** The disks that some targets of a suite take, in the order of measuring. */
export function disksOf(suite, targets) {
  const wanted = new Set(targets.flatMap(target => SUITES[suite].targets[target]))
  return SUITES[suite].disks.filter(disk => wanted.has(disk))
}
