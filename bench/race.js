// The race: our disks and those of others, each kind of disk in a heat of its own.

const random = depths =>
  ['randread', 'randwrite'].flatMap(pattern => depths.map(depth => `${pattern}-4k-${depth}`))

const SMALL = random(['1', '1-pinned', '64', '64-pinned'])

/** A heat in which all are compared with one disk. */
function heat(base, workloads, disks) {
  return {
    workloads,
    disks: [base, ...disks],
    targets: Object.fromEntries(disks.map(disk => [disk, [disk, base]])),
    // What the kernel's own threads serve cannot be bound to a CPU.
    measures: (disk, { pinned }) => !pinned || !/^nbdkit|^loop|^null-block$/.test(disk),
  }
}

/** Disks in a file, all over the same one. */
function files(where) {
  const on = (kind, words) => words.map(word => `${kind}-${where}${word && `-${word}`}`)
  return heat(
    `kublk-loop-${where}`,
    [...SMALL, 'read-1m-8', 'write-1m-8'],
    [
      ...on('file', ['', 'bound', 'perio', 'batch', 'copy', 'user', 'zero']),
      ...on('kublk-loop', ['batch', 'user', 'zero', 'auto', 'batch-auto', 'auto-none']),
      ...on('rublk-loop', ['', 'zero', 'zero-none']),
      ...on('loop', ['']),
    ],
  )
}

export const RACE = {
  parts: ['io', 'calls', 'allocations'],
  heats: {
    'null-disks': heat('kublk-null', SMALL, [
      'null',
      'null-bound',
      'null-poll',
      'null-perio',
      'null-batch',
      'kublk-null-batch',
      'kublk-null-none',
      'kublk-null-batch-none',
      'kublk-null-auto',
      'rublk-null',
      'rublk-null-none',
      'rublk-null-zero',
      'nbdkit-null',
      'null-block',
    ]),
    // There is no such disk of kublk's: it is one that need not move data.
    'memory-disks': heat('kublk-null', SMALL, [
      'memory',
      'memory-bound',
      'memory-poll',
      'memory-perio',
      'memory-batch',
      'memory-user',
      'js-sync',
      'js-batch',
      'js-batch-batch',
      'go-memory',
      'nbdkit-memory',
    ]),
    'tmpfs-files': files('tmpfs'),
    'ext4-files': files('ext4'),
  },
  /** A disk that does not run is a result here: the others go on. */
  tolerant: true,
  memory: '6G',
}
