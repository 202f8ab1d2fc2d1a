// Measures disks with the profiles of faults() with fio, beside the figures that each profile is made of, and a disk without
// rules: rules only add time, so a disk takes what it takes anyway and what its profile says.

import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { PROFILES } from '../dist/backends/fault-profiles.js'
import { faults, memory, UblkDevice } from '../dist/index.js'

const execute = promisify(execFile)
const seconds = Number(process.argv[2] ?? 3)

/** Mean latency in microseconds and requests a second of a load of 4 KiB at random places. */
async function load(path, rw, depth) {
  const side = await fio(path, [`--rw=rand${rw}`, `--iodepth=${depth}`, '--ioengine=libaio'], rw)
  return { latency: side.lat_ns.mean / 1000, iops: side.iops }
}

/** Mean latency of a flush, in microseconds. */
async function flush(path) {
  const side = await fio(path, ['--rw=randwrite', '--ioengine=psync', '--fdatasync=1'], 'sync')
  return side.lat_ns.mean / 1000
}

async function fio(path, words, side) {
  const { stdout } = await execute('fio', [
    '--name=x',
    `--filename=${path}`,
    '--size=512m',
    '--bs=4k',
    '--direct=1',
    '--norandommap',
    '--time_based',
    `--runtime=${seconds}`,
    '--output-format=json',
    ...words,
  ])
  return JSON.parse(stdout).jobs[0][side]
}

async function measure(profile) {
  const backend = faults(memory('512M'), profile === undefined ? [] : { profile })
  const disk = await UblkDevice.create({ backend, writeCache: true })
  try {
    return {
      read: (await load(disk.path, 'read', 1)).latency,
      write: (await load(disk.path, 'write', 1)).latency,
      flush: await flush(disk.path),
      readIops: (await load(disk.path, 'read', 32)).iops,
      writeIops: (await load(disk.path, 'write', 32)).iops,
    }
  } finally {
    await disk.delete({ force: true })
  }
}

const columns = {
  read: 'read, QD 1, µs',
  write: 'write, QD 1, µs',
  flush: 'flush, µs',
  readIops: 'reads/s, QD 32',
  writeIops: 'writes/s, QD 32',
}
const row = (...cells) =>
  process.stdout.write(
    `${cells
      .map(cell => String(cell).padEnd(20))
      .join('')
      .trimEnd()}\n`,
  )
row('', '', ...Object.values(columns))
const figures = measured => Object.keys(columns).map(name => Math.round(measured[name]))
row('no rules', 'measured', ...figures(await measure()))
for (const [profile, { expected }] of Object.entries(PROFILES)) {
  const { read, write, flush } = expected
  row(
    profile,
    'figures',
    ...figures({
      read: read.latency,
      write: write.latency,
      flush,
      readIops: read.iops,
      writeIops: write.iops,
    }),
  )
  row('', 'measured', ...figures(await measure(profile)))
}
