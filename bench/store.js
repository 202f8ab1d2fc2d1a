// Disks in an object store that is 20 ms away: what a flush costs, what is asked of the store, and how many bytes go there.

import { execFile } from 'node:child_process'
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { startNbdkit, startS3backer, startVolume } from './peers/s3.js'
import { cli, serve } from './server.js'
import { median } from './statistics.js'
import { putTimes, signed, startStore } from './store-server.js'

const execute = promisify(execFile)
const DIR = '/tmp/bench-store'
/** What the way adds to each answer, in milliseconds. */
const DELAY = 20
const MiB = 2 ** 20
/** Of the disks that are compared. */
const SIZE = 256

/** fio on a disk; its JSON for the one job. */
async function fio(path, ...words) {
  const all = [
    '--name=x',
    `--filename=${path}`,
    '--direct=1',
    '--output-format=json',
    '--allow_file_create=0',
  ]
  const { stdout } = await execute('fio', [...all, ...words], { cwd: '/tmp', maxBuffer: 2 ** 24 })
  const [job] = JSON.parse(stdout.slice(stdout.indexOf('{'))).jobs
  if (job.error !== 0) throw new Error(`fio: error ${job.error}`)
  return job
}

const p50 = ({ percentile }) => percentile['50.000000'] / 1e6

/** Milliseconds of a flush after one block was written, at a depth of 1. */
async function flushes(path, number) {
  const job = await fio(
    path,
    '--rw=randwrite',
    '--bs=4k',
    `--size=${SIZE}m`,
    '--fsync=1',
    `--number_ios=${number}`,
  )
  return p50(job.sync.lat_ns)
}

/** Writes blocks of 4 KiB in the first `size` MiB of a disk, `written` MiB of them. */
async function writeAtRandom(path, size, written) {
  const words = ['--rw=randwrite', '--bs=4k', '--iodepth=32', '--ioengine=libaio', '--norandommap']
  await fio(path, ...words, '--randrepeat=0', `--size=${size}m`, `--io_size=${written}m`)
}

async function standing({ path }) {
  const { stdout } = await execute(process.execPath, [cli, 'show', '--json', path])
  return JSON.parse(stdout).ublkdevices[0].volume
}

/** Gives a store to what measures, and takes it away. */
export async function measureStore(options, { emit, progress }) {
  const { path, why } = options.programs.versitygw
  if (!path) throw new Error(why)
  rmSync(DIR, { recursive: true, force: true })
  mkdirSync(DIR)
  await execute('mount', ['-t', 'tmpfs', '-o', 'size=6g', 'none', DIR])
  const store = await startStore(path, `${DIR}/store`)
  const tell = (name, figures) => emit({ kind: 'store', name, ...figures })
  const context = { store, rounds: options.rounds, tell, progress }
  try {
    for (const name of options.parts) {
      progress(name)
      await MEASURES[name](context)
    }
  } finally {
    await store.stop()
    await execute('umount', ['-l', DIR])
  }
}

const MEASURES = {
  /** One block and a flush, beside a PUT of as many bytes. */
  async flush({ store, rounds, tell }) {
    const disk = await startVolume('flush', `${SIZE}M`)
    await store.count(DELAY)
    const body = `${DIR}/body`
    writeFileSync(body, Buffer.alloc(8192, 1))
    await flushes(disk.path, 5)
    for (let round = 0; round < rounds; round++) {
      const keys = Array.from({ length: 20 }, (_, n) => `plain/${round}-${n}`)
      const times = await putTimes(keys, body)
      tell('flush', { put_ms: median(times), flush_ms: await flushes(disk.path, 20) })
    }
    await store.count(0)
    await disk.stop()
  },

  /** What is not in the cache: single blocks, then all of it. */
  async cold({ store, rounds, tell }) {
    const disk = await startVolume('cold', `${SIZE}M`)
    await fio(
      disk.path,
      '--rw=write',
      '--bs=1m',
      '--iodepth=8',
      '--ioengine=libaio',
      `--size=${SIZE}m`,
      '--end_fsync=1',
    )
    await disk.stop()
    const keys = (await listed(store)).filter(({ size }) => size > 4 * MiB)
    for (let round = 0; round < rounds; round++) {
      const again = await startVolume('cold', `${SIZE}M`, { cold: true })
      await store.count(DELAY)
      const times = []
      for (let n = 0; n < 16; n++) {
        const began = performance.now()
        await execute('dd', [
          `if=${again.path}`,
          'of=/dev/null',
          'bs=4k',
          'count=1',
          `skip=${(n * 16 + 5) * 256}`,
          'iflag=direct',
        ])
        times.push(performance.now() - began)
      }
      const { GET } = await store.count(0)
      await again.stop()
      const third = await startVolume('cold', `${SIZE}M`, { cold: true })
      await store.count(DELAY)
      const began = performance.now()
      await execute('dd', [`if=${third.path}`, 'of=/dev/null', 'bs=1M', `count=${SIZE}`])
      const disk_mib_s = (SIZE * 1000) / (performance.now() - began)
      await store.count(DELAY)
      const plain_mib_s = await plainGets(keys)
      await store.count(0)
      await third.stop()
      tell('cold', { reads: 16, gets: GET, read_ms: median(times), disk_mib_s, plain_mib_s })
    }
  },

  /** Bytes that go to the store for each that is written. */
  async bytes({ store, tell }) {
    const size = SIZE
    const disk = await startVolume('bytes', `${size}M`, { durable: 'local' })
    await store.count(0)
    const part = Math.floor(size * 0.7)
    await fio(disk.path, '--rw=write', '--bs=64k', '--iodepth=16', '--ioengine=libaio', `--size=${part}m`)
    await settled(disk)
    const first = await store.count(0)
    const before = await standing(disk)
    tell('bytes', { what: 'written once', up: first.up, written: before.written })
    await writeAtRandom(disk.path, part, 4 * part)
    await settled(disk)
    const { up } = await store.count(0)
    const after = await standing(disk)
    tell('bytes', {
      what: 'overwritten at random, four times, 4 KiB',
      up,
      written: after.written - before.written,
      stored: after.stored,
      live: after.live,
    })
    await disk.stop()
  },

  /** What a disk asks of the store that nobody uses. */
  async idle({ store, tell, progress }) {
    const disk = await startVolume('idle', `${SIZE}M`)
    await fio(disk.path, '--rw=write', '--bs=1m', '--size=64m', '--end_fsync=1')
    await sleep(3000)
    await store.count(0)
    const minutes = 10
    for (let minute = 1; minute <= minutes; minute++) {
      progress(`idle: minute ${minute} of ${minutes}`)
      await sleep(60_000)
    }
    const { up: _, down: __, ...requests } = await store.count(0)
    tell('idle', { minutes, requests: Object.values(requests).reduce((a, b) => a + b, 0) })
    await disk.stop()
  },

  /** A volume of 1 TiB with about as many runs in its map as one that is full of large files has, opened without a cache. */
  async open({ store, rounds, tell }) {
    const disk = await startVolume('large', '1T', { durable: 'local' })
    await store.count(0)
    await writeAtRandom(disk.path, 2048, 512)
    await settled(disk)
    await disk.stop()
    for (let round = 0; round < rounds; round++) {
      const times = {}
      let requests
      for (const delay of [0, DELAY, 5 * DELAY]) {
        await store.count(delay)
        const began = performance.now()
        const again = await startVolume('large', '1T', { cold: true })
        times[delay] = performance.now() - began
        const { up: _, down: __, ...counted } = await store.count(0)
        requests = counted
        await again.stop()
      }
      const memory = await startMemory()
      tell('open', { times, memory_ms: memory, requests })
    }
  },

  /** What is in the cache, and what is flushed here, beside a file in the same place. */
  async warm({ store, rounds, tell }) {
    await store.count(DELAY)
    const volume = await startVolume('warm', `${SIZE}M`, { durable: 'local' })
    const file = await startFile(`${DIR}/file`, SIZE)
    const full = ['--rw=write', '--bs=1m', '--iodepth=4', '--ioengine=libaio', `--size=${SIZE}m`]
    for (const { path } of [volume, file]) await fio(path, ...full)
    await settled(volume)
    for (const { path } of [volume, file])
      await fio(path, '--rw=read', '--bs=1m', '--iodepth=4', '--ioengine=libaio', `--size=${SIZE}m`)
    // Writes last: what they leave is not all in the cache.
    for (const pattern of ['randread', 'randwrite']) {
      for (let round = 0; round < rounds; round++) {
        const iops = {}
        for (const [name, { path }] of Object.entries(round % 2 ? { file, volume } : { volume, file })) {
          const words = [
            '--iodepth=64',
            '--ioengine=io_uring',
            `--size=${SIZE}m`,
            '--time_based',
            '--runtime=2',
            '--norandommap',
          ]
          const job = await fio(path, `--rw=${pattern}`, '--bs=4k', ...words)
          iops[name] = pattern === 'randread' ? job.read.iops : job.write.iops
        }
        tell('warm', { pattern, ...iops })
        if (pattern === 'randwrite') await settled(volume)
      }
    }
    await store.count(0)
    await volume.stop()
    await file.stop()
  },

  /** The same on other disks in the store. */
  async peers({ store, rounds, tell, progress }) {
    const peers = { s3: startVolume, nbdkit: startNbdkit, s3backer: startS3backer }
    const absent = new Set()
    for (let round = 0; round < rounds; round++) {
      for (const [name, start] of Object.entries(peers)) {
        if (absent.has(name)) continue
        progress(`peers: ${name}, round ${round + 1} of ${rounds}`)
        try {
          tell('peers', { disk: name, ...(await peer(store, start, `peer-${name}-${round}`)) })
        } catch (error) {
          absent.add(name)
          await store.count(0)
          tell('peers', { disk: name, why: error.message.split('\n')[0] })
        }
      }
    }
  },
}

/** What one of them does with an empty disk of 64 MiB, at 20 ms. */
async function peer(store, start, name) {
  const words = ['--ioengine=libaio', '--time_based', '--runtime=3', '--size=32m']
  const disk = await start(name, '64M')
  try {
    await store.count(DELAY)
    const write1 = await fio(disk.path, '--rw=randwrite', '--bs=4k', '--iodepth=1', ...words)
    const write16 = await fio(disk.path, '--rw=randwrite', '--bs=4k', '--iodepth=16', ...words)
    const flushed = await fio(
      disk.path,
      '--rw=randwrite',
      '--bs=4k',
      '--fsync=1',
      '--size=32m',
      '--number_ios=20',
    )
    await fio(
      disk.path,
      '--rw=write',
      '--bs=64k',
      '--iodepth=16',
      '--ioengine=libaio',
      '--size=64m',
      '--end_fsync=1',
    )
    const { PUT } = await store.count(0)
    await disk.stop()
    const again = await start(name, '64M', { cold: true })
    try {
      await store.count(DELAY)
      const read1 = await fio(
        again.path,
        '--rw=randread',
        '--bs=4k',
        '--iodepth=1',
        '--ioengine=libaio',
        '--size=64m',
        '--number_ios=30',
        '--norandommap',
      )
      const { GET } = await store.count(DELAY)
      const read16 = await fio(again.path, '--rw=randread', '--bs=4k', '--iodepth=16', ...words)
      await store.count(0)
      return {
        write1: write1.write.iops,
        write16: write16.write.iops,
        puts: PUT,
        write_and_flush_ms: p50(flushed.sync.lat_ns) + p50(flushed.write.clat_ns),
        read1_ms: p50(read1.read.clat_ns),
        gets: GET,
        read16: read16.read.iops,
      }
    } finally {
      await again.stop()
    }
  } finally {
    await disk.stop().catch(() => {})
  }
}

async function startFile(path, size) {
  await execute('fallocate', ['-l', `${size}M`, path])
  return await serve([process.execPath, cli, 'create', '--file', path, '--direct', '--queues', '1'])
}

async function startMemory() {
  const began = performance.now()
  const disk = await serve([process.execPath, cli, 'create', '--mem', '64M', '--queues', '1'])
  const time = performance.now() - began
  await disk.stop()
  return time
}

/** Waits until all is in the store, and what follows from that is done. */
async function settled(disk) {
  let last
  for (const end = performance.now() + 90_000; performance.now() < end; ) {
    await sleep(2500)
    const now = await standing(disk)
    const text = `${now.behind} ${now.sent} ${now.deletes}`
    if (now.behind === 0 && text === last) return
    last = text
  }
}

async function listed() {
  const { stdout } = await execute('find', [
    `${DIR}/store/data/disks/cold/log`,
    '-type',
    'f',
    '-printf',
    '%s %P\n',
  ])
  return stdout
    .trim()
    .split('\n')
    .map(line => ({ size: Number(line.split(' ')[0]), key: `cold/log/${line.split(' ')[1]}` }))
}

/** All of these objects in parts of 1 MiB, 16 at a time, by curl. */
async function plainGets(objects) {
  const parts = objects.flatMap(({ key, size }) =>
    Array.from({ length: Math.ceil(size / MiB) }, (_, part) => [
      `url = "${signed('GET', key)}"`,
      `range = "${part * MiB}-${Math.min((part + 1) * MiB, size) - 1}"`,
      'output = "/dev/null"',
    ]),
  )
  writeFileSync(`${DIR}/gets`, parts.map(lines => lines.join('\n')).join('\nnext\n'))
  const began = performance.now()
  await execute('curl', [
    '--fail',
    '--silent',
    '--parallel',
    '--parallel-max',
    '16',
    '--config',
    `${DIR}/gets`,
  ])
  return (objects.reduce((sum, { size }) => sum + size, 0) / MiB / (performance.now() - began)) * 1000
}
