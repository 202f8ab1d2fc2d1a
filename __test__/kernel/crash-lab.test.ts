// seconds: 80
import {
  closeSync,
  fsyncSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readSync,
  rmSync,
  writeSync,
} from 'node:fs'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import {
  type CrashState,
  file,
  lazy,
  overlay,
  powercut,
  qcow2,
  type ServedDevice,
  s3,
  stripe,
  UblkDevice,
} from 'ublk-ts'
import { type Check, isFound, JOBS, MORE, ROUNDS, STATES, survives } from '../support/crash.js'
import { leaveNothingBehind } from '../support/devices.js'
import { sh } from '../support/program.js'
import { type Looked, StateChecker } from '../support/state-checker.js'

// Sound: what is right survives every state. Sharp: what is wrong is found, and the losses that matter are few.
// UBLK_TS_CRASH_STATES=10000 tries more states; that takes hours, and ava's --timeout has to be longer than each test.

const DIR = mkdtempSync('/dev/shm/crash-lab-')
const MOUNT = join(DIR, 'mnt')
leaveNothingBehind(test)
/** Where the states are mounted that are checked at a time. */
const CRASHED = Array.from({ length: JOBS }, (_, job) => join(DIR, `crashed${job}`))
test.before(async () => void (await sh('mkdir "$@"', MOUNT, ...CRASHED)))
test.afterEach.always(async () => {
  await sh('for dir; do while umount "$dir" 2>/dev/null; do :; done; done', MOUNT, ...CRASHED)
})
test.after.always(() => {
  rmSync(DIR, { recursive: true, force: true })
})

/** A file system on a disk, with what a script has put there before it is recorded. */
async function mounted(
  mkfs: string,
  options = 'defaults',
  prepare = ':',
  size = mkfs === XFS ? '320M' : '16M',
): Promise<ServedDevice> {
  const disk = await UblkDevice.create({ backend: powercut({ size, seed: 1 }) })
  const script = `${mkfs} "$1" >/dev/null; mount -o ${options} "$1" "$2"; cd "$2"; ${prepare}; sync`
  await sh(script, disk.path, MOUNT)
  disk.mark('0')
  return disk
}

/** Runs a script for the numbers from 1 on, and promises each. */
async function work(disk: ServedDevice, script: string, numbers = ROUNDS): Promise<void> {
  for (let n = 1; n <= numbers; n++) {
    await sh(`cd "$2"; n=$1; ${script}`, String(n), MOUNT)
    disk.mark(String(n))
  }
  await sh('umount "$1"', MOUNT)
}

/** What is found in the mounted state has to be the number that was promised last, or the next one. */
function promised(t: ExecutionContext, looked: Looked): Check {
  const checkers: StateChecker[] = []
  t.teardown(() => {
    for (const checker of checkers) checker.end()
  })
  return async (state, job = 0) => {
    await using crashed = await state.disk()
    checkers[job] ??= new StateChecker(CRASHED[job] as string, looked)
    const found = await checkers[job].check(crashed.path)
    const last = Number(state.marks.at(-1))
    if (found !== String(last) && found !== String(last + 1)) throw new Error(`${last}, then: ${found}`)
  }
}

const EXT4 = 'mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0'
const XFS = 'mkfs.xfs -q -f'

/** Each file has some KiB of its number. */
const LENGTH = MORE * 8192
const FILES = `printf %0${LENGTH}d $n >file$n; sync file$n; sync .`
const READ_FILES: Looked = { system: 'ext4', what: ['files', String(LENGTH)] }

test('files that were synced survive on ext4', async t => {
  await using disk = await mounted(EXT4)
  await work(disk, FILES)
  await survives(t, disk, promised(t, READ_FILES), { from: '0' }, JOBS)
})

test('files that were synced do not survive on ext4 without barriers', async t => {
  await using disk = await mounted(EXT4, 'barrier=0')
  await work(disk, FILES)
  await isFound(t, disk, promised(t, READ_FILES), { from: '0' })
})

test('files that were synced survive on xfs', async t => {
  await using disk = await mounted(XFS)
  await work(disk, FILES)
  // Several states are mounted at a time.
  const check = promised(t, { ...READ_FILES, system: 'xfs', options: 'nouuid' })
  await survives(t, disk, check, { from: '0' }, JOBS)
})

const TABLE = 'CREATE TABLE t(n INTEGER PRIMARY KEY, text)'
const INSERT = `INSERT INTO t VALUES($n, hex(randomblob(${MORE * 3000})))`
const COUNT: Looked = { system: 'ext4', what: ['sqlite'] }

// In mode DELETE a transaction is there for good when its journal is not: with FULL, the directory is not synced after that.
const SAFE = { DELETE: 'EXTRA', WAL: 'FULL' }

for (const [mode, level] of Object.entries(SAFE)) {
  test(`SQLite survives in mode ${mode} with synchronous=${level}`, async t => {
    await using disk = await mounted(EXT4, 'defaults', `sqlite3 db 'PRAGMA journal_mode=${mode}; ${TABLE}'`)
    await work(disk, `sqlite3 db "PRAGMA synchronous=${level}; ${INSERT}"`)
    await survives(t, disk, promised(t, COUNT), { from: '0' }, JOBS)
  })
}

test('SQLite with synchronous=OFF loses what was promised', async t => {
  await using disk = await mounted(EXT4, 'defaults', `sqlite3 db '${TABLE}'`)
  await work(disk, `sqlite3 db "PRAGMA synchronous=OFF; ${INSERT}"`, 1)
  await isFound(t, disk, promised(t, COUNT), { from: '0' })
})

// It takes long, and needs Debian's package postgresql.
const [BIN] = readdirSync('/usr/lib').includes('postgresql')
  ? readdirSync('/usr/lib/postgresql').map(version => `/usr/lib/postgresql/${version}/bin`)
  : []
const slow = BIN && STATES > 8 ? test : test.skip

slow('PostgreSQL survives', async t => {
  const run = `run() { setpriv --reuid postgres --regid postgres --clear-groups -- ${BIN}/"$@"; }; cd "$2"`
  const settings = `max_connections = 5
    shared_buffers = 1MB
    max_wal_senders = 0
    min_wal_size = 2MB
    max_wal_size = 2MB
    autovacuum = off
    listen_addresses = ''
    unix_socket_directories = '${DIR}'`
  const prepare = `${run}; mkdir data; chown postgres data
    run initdb -D data -A trust --no-sync --no-locale --wal-segsize 1 >/dev/null
    echo "${settings}" >>data/postgresql.conf
    run pg_ctl start -w -s -D data -l ${DIR}/log
    run psql -h ${DIR} -Xqc 'CREATE EXTENSION amcheck; CREATE TABLE payment (number int PRIMARY KEY, note text)' -c CHECKPOINT postgres`
  await sh('chmod 777 "$1"', DIR)
  await using disk = await mounted(EXT4, 'defaults', prepare, '192M')
  for (let n = 1; n <= ROUNDS; n++) {
    const insert = `INSERT INTO payment VALUES (${n}, repeat(md5('${n}'), 40))`
    await sh(`${run}; run psql -h ${DIR} -Xqc "${insert}" postgres`, '', MOUNT)
    disk.mark(String(n))
    if (n % 4 === 2) await sh(`${run}; run psql -h ${DIR} -Xqc CHECKPOINT postgres`, '', MOUNT)
  }
  await sh(`${run}; run pg_ctl stop -s -m immediate -D data; cd /; umount "$2"`, '', MOUNT)
  const check = promised(t, { system: 'ext4', what: ['postgresql', BIN ?? ''] })
  await survives(t, disk, check, { from: '0' }, JOBS)
})

/** A log of records of 16 KiB on a disk without a file system: a header with the number, and the number again everywhere. */
const RECORD = 16384

function record(n: number, checked: boolean): Buffer {
  const data = Buffer.alloc(RECORD)
  for (let at = 0; at < RECORD; at += 4) data.writeUInt32LE(n, at)
  if (checked) data.writeUInt32LE(sum(data), RECORD - 4)
  return data
}

function sum(data: Buffer): number {
  let sum = 1
  for (let at = 0; at < RECORD - 4; at += 4) sum = (Math.imul(sum, 31) + data.readUInt32LE(at)) >>> 0
  return sum
}

async function append(path: string, n: number, checked: boolean): Promise<void> {
  const disk = await open(path, 'r+')
  try {
    await disk.write(record(n, checked), 0, RECORD, (n - 1) * RECORD)
    await disk.sync()
  } finally {
    await disk.close()
  }
}

/** The last record up to which all are there. With a wrong one among them it throws an error. */
async function replay(path: string, checked: boolean): Promise<number> {
  const disk = await open(path, 'r')
  try {
    for (let n = 1; ; n++) {
      const data = Buffer.alloc(RECORD)
      await disk.read(data, 0, RECORD, (n - 1) * RECORD)
      if (data.readUInt32LE(0) !== n) return n - 1
      if (data.equals(record(n, checked))) continue
      if (checked && data.readUInt32LE(RECORD - 4) !== sum(data)) return n - 1
      throw new Error(`record ${n} is there in part`)
    }
  } finally {
    await disk.close()
  }
}

/** What is found has to be what was promised last, or the next one. */
function enough(state: CrashState, found: number): void {
  const last = Number(state.marks.at(-1) ?? 0)
  if (found !== last && found !== last + 1) throw new Error(`${found} records after ${last}`)
}

const replays =
  (checked: boolean): Check =>
  async state => {
    await using crashed = await state.disk()
    enough(state, await replay(crashed.path, checked))
  }

for (const checked of [true, false]) {
  test(`a log ${checked ? 'with a checksum survives' : 'without a checksum is torn'}`, async t => {
    await using disk = await UblkDevice.create({ backend: powercut({ size: '1M', seed: 2 }) })
    for (let n = 1; n <= 5; n++) {
      await append(disk.path, n, checked)
      disk.mark(String(n))
    }
    await (checked ? survives : isFound)(t, disk, replays(checked))
  })
}

for (const flushes of [true, false]) {
  test(`a disk in JavaScript ${flushes ? 'survives if it flushes' : 'that does not flush loses records'}`, async t => {
    await using disk = await UblkDevice.create({ backend: powercut({ size: '1M', seed: 3 }) })
    const below = openSync(disk.path, 'r+')
    try {
      const backend = {
        size: '1M',
        read: ({ offset }: { offset: number }, into: Uint8Array) =>
          void readSync(below, into, 0, into.length, offset),
        write: ({ offset }: { offset: number }, from: Uint8Array) =>
          void writeSync(below, from, 0, from.length, offset),
        flush: () => (flushes ? fsyncSync(below) : undefined),
      }
      await using upper = await UblkDevice.create({ backend })
      for (let n = 1; n <= 4; n++) {
        await append(upper.path, n, true)
        disk.mark(String(n))
      }
    } finally {
      closeSync(below)
    }
    await (flushes ? survives : isFound)(t, disk, replays(true))
  })
}

/** A volume whose cache and whose store are on the recorded disk. */
const volume = (durable: 'object' | 'local') => () =>
  s3(`file://${join(MOUNT, 'store')}`, {
    cache: join(MOUNT, 'cache'),
    cacheMax: '64M',
    size: '1M',
    durable,
    delay: 3_600_000,
  })

/** Backends with files on the recorded disk, and scripts that make these files and check them, in their directory. */
const STORED = {
  file: { backend: () => file(join(MOUNT, 'disk')), prepare: 'truncate -s 1M disk', check: ':' },
  overlay: {
    backend: () => overlay(file(join(DIR, 'base')), { upper: join(MOUNT, 'upper') }),
    prepare: ':',
    check: ':',
  },
  lazy: {
    backend: () => lazy({ source: join(DIR, 'base'), cache: join(MOUNT, 'cache') }),
    prepare: ':',
    check: ':',
  },
  stripe: {
    // A record is on both.
    backend: () => stripe([file(join(MOUNT, 'even')), file(join(MOUNT, 'odd'))], { chunk: '8K' }),
    prepare: 'truncate -s 512K even odd',
    check: ':',
  },
  qcow2: {
    // A record needs new clusters.
    backend: () => qcow2(join(MOUNT, 'image')),
    prepare: 'qemu-img create -q -f qcow2 -o cluster_size=4k image 1M',
    // Status 3: clusters are leaked.
    check: 'said=$(qemu-img check image 2>&1) || [ $? = 3 ] || { echo "$said"; exit 1; }',
  },
  'a volume': { backend: volume('object'), prepare: ':', check: ':' },
  'a volume that then loses its cache': { backend: volume('object'), prepare: ':', check: 'rm -rf cache' },
  'a volume and its cache': { backend: volume('local'), prepare: ':', check: ':' },
  // What is stored only later is lost with the cache: that this is found shows that the other tests find what is there to be found.
  'a volume that then loses its cache, and flushed only to that,': {
    backend: volume('local'),
    prepare: ':',
    check: 'rm -rf cache',
    lost: true,
  },
}

for (const [name, { backend, prepare, check, ...more }] of Object.entries(STORED)) {
  const lost = 'lost' in more
  test(`what was flushed on ${name} ${lost ? 'does not survive' : 'survives'} a power cut`, async t => {
    await sh('truncate -s 1M "$1/base"', DIR)
    await using disk = await mounted(EXT4, 'defaults', prepare)
    {
      await using upper = await UblkDevice.create({ backend: backend() })
      for (let n = 1; n <= 4; n++) {
        await append(upper.path, n, true)
        disk.mark(String(n))
      }
    }
    await sh('umount "$1"', MOUNT)
    const survived: Check = async state => {
      await using crashed = await state.disk()
      await sh('mount "$1" "$2"', crashed.path, MOUNT)
      try {
        await sh(`cd "$1"; ${check}`, MOUNT)
        await using upper = await UblkDevice.create({ backend: backend() })
        enough(state, await replay(upper.path, true))
      } finally {
        await sh('umount "$1"', MOUNT)
      }
    }
    if (!lost) return await survives(t, disk, survived, { from: '0' })
    let failed = 0
    for await (const state of disk.crashStates({ budget: STATES, from: '0' }))
      await survived(state).catch(() => failed++)
    t.true(failed > 0)
  })
}
