// Disks made of other disks, and our disks against those of another build.

const SMALL = ['randread-4k-64', 'randwrite-4k-64']
const LARGE = ['read-1m-8', 'write-1m-8']
const SHARED = [...SMALL, 'randread-128k-16', 'randwrite-128k-16']
const ALONE = ['randread-4k-1', 'randwrite-4k-1']

/** A heat in which each disk is compared with the one beside it. */
function pairs(workloads, disks) {
  return {
    workloads,
    disks: Object.entries(disks).flat(),
    targets: Object.fromEntries(Object.entries(disks).map(([disk, base]) => [disk, [disk, base]])),
  }
}

/**
 * Stripes of two files, chunks of 64 KiB: each against kublk's, which moves data in the same way. Bound to a CPU, as kublk
 * always is.
 */
function stripes(where) {
  return pairs([...SMALL, ...LARGE], {
    [`stripe-${where}-zero-bound`]: `kublk-stripe-${where}-auto-none`,
    [`stripe-${where}-copy-bound`]: `kublk-stripe-${where}-none`,
  })
}

export const STACKS = {
  parts: ['io', 'calls', 'allocations'],
  heats: {
    'ext4-stripes': stripes('ext4'),
    'tmpfs-stripes': stripes('tmpfs'),
    'ext4-slices': pairs(SMALL, { 'slices-ext4': 'file-ext4' }),
    'tmpfs-slices': pairs(SMALL, { 'slices-tmpfs': 'file-tmpfs' }),
  },
  tolerant: true,
  memory: '6G',
}

/** A memory disk with a layer for faults, without rules, against one without the layer. */
export const FAULTS = {
  parts: ['io', 'calls', 'allocations'],
  heats: { faults: pairs([...SMALL, ...ALONE], { faults: 'memory' }) },
  memory: '6G',
}

/**
 * A disk that records what is written against one in memory, and against the kernel's dm-log-writes over disks in memory. In a round
 * of writes each begins empty, but for one in memory, which has all of its pages: `memory-new` gets them with its first writes.
 */
export const CRASHES = {
  parts: ['io', 'states', 'log'],
  heats: {
    'recorded-reads': pairs(['randread-4k-64'], { recorded: 'memory' }),
    'recorded-writes': {
      workloads: ['randwrite-4k-64'],
      disks: ['dm-log-writes', 'memory-new', 'recorded-new', 'memory'],
      targets: {
        'recorded-new': ['recorded-new', 'memory'],
        'memory-new': ['recorded-new', 'memory-new'],
        'dm-log-writes': ['recorded-new', 'dm-log-writes'],
      },
      keeps: true,
    },
  },
  tolerant: true,
  memory: '6G',
}

/** A qcow2 image against a file, against rublk's, and against QEMU's server with the kernel's NBD client. */
export const IMAGES = {
  parts: ['io', 'calls', 'allocations'],
  heats: {
    images: {
      workloads: [...SMALL, ...LARGE, ...ALONE],
      disks: ['file-tmpfs', 'qcow2-tmpfs', 'rublk-qcow2-tmpfs', 'nbd-qcow2'],
      targets: {
        'qcow2-tmpfs': ['qcow2-tmpfs', 'file-tmpfs'],
        'rublk-qcow2-tmpfs': ['qcow2-tmpfs', 'rublk-qcow2-tmpfs'],
        'nbd-qcow2': ['qcow2-tmpfs', 'nbd-qcow2'],
      },
    },
  },
  tolerant: true,
  memory: '6G',
}

/** Our NBD client against the kernel's, each with a server of its own that keeps the data in memory. */
export const NBD = {
  parts: ['io', 'calls', 'allocations'],
  heats: {
    nbd: {
      workloads: [...SMALL, ...LARGE, ...ALONE],
      disks: ['client-memory', 'nbdkit-memory'],
      targets: { 'client-memory': ['client-memory', 'nbdkit-memory'] },
    },
  },
  tolerant: true,
  memory: '6G',
}

const PEERS = ['dm', 'nbd', 'rublk', 'clusters']

/** Our overlays with a new upper and with one that has everything, in that order the others' of the same kind. */
function overlayPeers(form, workloads) {
  const ours = `${form}-tmpfs`
  const others = PEERS.map(peer => (peer === 'dm' ? `dm-${form}` : `${peer}-${form}-tmpfs`))
  return {
    workloads,
    disks: [ours, ...others],
    targets: Object.fromEntries(others.map(other => [other, [ours, other]])),
  }
}

/** Overlays against a file, and against what others make over a base. */
export const OVERLAYS = {
  parts: ['io', 'calls', 'allocations', 'first', 'clones'],
  heats: {
    overlay: {
      workloads: [...SMALL, ...LARGE],
      disks: ['fresh-tmpfs', 'file-tmpfs', 'present-tmpfs'],
      targets: {
        'fresh-tmpfs': ['fresh-tmpfs', 'file-tmpfs'],
        'present-tmpfs': ['present-tmpfs', 'file-tmpfs'],
      },
      // A new upper would not stay new.
      measures: (disk, { pattern }) => !disk.startsWith('fresh') || pattern.endsWith('read'),
    },
    'base-peers': overlayPeers('fresh', ['randread-4k-64', 'read-1m-8']),
    'present-peers': overlayPeers('present', [...SMALL, ...LARGE]),
  },
  /** Measured in `first`, each with the disk that its figures are divided by. */
  first: {
    disks: [
      'sparse-ext4',
      'fresh-ext4',
      'dm-fresh',
      'nbd-fresh-ext4',
      'clusters-fresh-ext4',
      'rublk-fresh-ext4',
    ],
    base: 'sparse-ext4',
  },
  tolerant: true,
  memory: '8G',
}

/** `--other DIR` names the directory of the other build. */
export const BUILDS = {
  parts: ['io', 'calls', 'allocations'],
  heats: {
    'memory-builds': pairs([...SMALL, ...ALONE], { null: 'other-null', memory: 'other-memory' }),
    'file-builds': pairs([...SMALL, ...ALONE], { 'file-ext4': 'other-file-ext4' }),
    'stripe-builds': pairs([...SMALL, ...LARGE], {
      'stripe-ext4-zero': 'other-stripe-ext4-zero',
      'stripe-ext4-copy': 'other-stripe-ext4-copy',
    }),
    // The load's buffers are in memory that the disk shares with it.
    'share-builds': pairs(SHARED, { 'memory-share': 'other-memory-share' }),
  },
  tolerant: true,
  memory: '6G',
}
