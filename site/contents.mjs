// The pages of the site, in order: files of docs/ without their ending, each with a sentence that says what it is for.

export const SECTIONS = [
  { name: 'Start', page: 'start' },
  {
    name: 'Recipes',
    about: 'One page for each task, with commands and programs to copy.',
    pages: {
      testing: 'Real disks under Vitest, `node --test`, AVA, Jest or any other language.',
      clones: 'A disk of its own for each virtual machine, sandbox or job, in less than a tenth of a second.',
      databases: 'Programs that find out, for SQLite, LevelDB and PostgreSQL.',
      faults: 'Disks that fail, hang, lie or have the times of a hard disk, for tests.',
      'http-image': 'A machine starts from an image far away, and fetches what it reads.',
      containers: 'What docker, podman and Kubernetes have to allow, with files to copy.',
      move: 'Other storage for a disk that is in use, and two disks with the same data.',
      nbd: 'Disks that a server has: nbdkit, qemu-nbd, and what these reach.',
      'object-storage': 'Disks in S3, other object stores, or a directory, with a cache here.',
      'other-formats': 'VMDK, VHDX, LUKS, iSCSI, Ceph: what QEMU opens, as disks.',
      encrypted: 'dm-crypt over a disk, or encryption in a program of yours.',
      scratch: 'A fast file system for one job, removed when the job ends.',
    },
  },
  {
    name: 'Guides',
    about: 'How a subject works as a whole.',
    pages: {
      'write-a-disk': 'Disks in TypeScript: requests, order, threads, errors, speed.',
      operations: 'Disks in production: services, users, recovery, snapshots, backups, updates, logs.',
      'beyond-one-machine':
        'A file server, NBD, Ceph, iSCSI or an object store: which one when, and what each promises and costs.',
      'power-cuts': 'What a power cut may leave of a disk, and how to try all of it.',
      'several-clients': 'Whether a disk is right for several clients at once.',
      dashboard: 'All disks of a machine in a browser.',
      performance: 'How fast it is, what costs what, and how to measure it.',
    },
  },
  {
    name: 'Reference',
    about: 'Every function, option, command, metric and promise.',
    pages: {
      options: 'The options of `UblkDevice.create()`, the kinds of storage, and the kernels they need.',
      'command-line': 'Every command with its options; exit statuses; files.',
      metrics: 'What `ublk-ts metrics` exports.',
      'control-socket': 'How programs in other languages talk to servers: JSON-RPC 2.0.',
      json: 'What commands print with `--json`.',
      guarantees: 'What is promised when something goes wrong, and which test checks it.',
    },
    also: [
      '[ublk-ts](../modules/ublk-ts.html): the functions and classes',
      '[ublk-ts/testing](../modules/ublk-ts_testing.html): disks for tests',
    ],
  },
  { name: 'Compare', page: 'compare' },
  { name: 'Troubleshooting', page: 'troubleshooting' },
  { name: 'Questions', page: 'faq' },
]

/** All pages, in order. */
export const PAGES = SECTIONS.flatMap(({ page, pages = {} }) => [
  ...(page ? [page] : []),
  ...Object.keys(pages),
])
