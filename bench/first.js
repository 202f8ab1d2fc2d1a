// First writes over a base: how fast they are, and how many bytes go to storage for them.

import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { promisify } from 'node:util'
import { makeFiles } from './files.js'
import { runFio } from './fio.js'
import { within } from './server.js'
import { SUITES } from './suites.js'
import { start } from './targets.js'

const execute = promisify(execFile)
/** MiB that are written. */
const MiB = 128
/** Each block once, in no order. */
const ONCE = ['--norandommap=0', `--size=${MiB}m`]

/** In each round every disk is made anew, written to, and flushed. Its store is a disk that counts. */
export async function measureFirst(options, { emit, progress }) {
  const { disks } = SUITES[options.suite].first
  const files = makeFiles()
  try {
    await files.fileOn('tmpfs') // the base
    await files.fileOn('ext4', 'some', 1) // so that the place is there
    const absent = new Set()
    for (let round = 1; round <= options.rounds; round++) {
      progress(`first writes: round ${round} of ${options.rounds}`)
      for (const name of round % 2 === 0 ? disks.toReversed() : disks) {
        if (absent.has(name)) continue
        try {
          emit({ kind: 'first', target: name, round, ...(await firstWrites(name, options, files)) })
        } catch (error) {
          absent.add(name)
          emit({ kind: 'absent', part: 'first', target: name, why: error.message.split('\n')[0] })
        }
      }
    }
  } finally {
    await files.remove()
  }
}

async function firstWrites(name, options, files) {
  const disk = await start(name, { ...options, fileOn: files.fileOn })
  try {
    await execute('sync')
    const store = disk.store ?? 'files'
    const before = writtenTo(store)
    const { iops, requests } = await runFio(disk, 'randwrite-4k-64', ONCE, 30)
    const began = performance.now()
    await within(30_000, execute('dd', ['if=/dev/null', `of=${disk.path}`, 'count=0', 'conv=fsync,notrunc']))
    const flush_ms = performance.now() - began
    // What a server has in its memory, and the file system's own.
    const flushed = writtenTo(store) - before
    return { iops, flush_ms, amplification: flushed / (requests * 4096) }
  } finally {
    await disk.stop()
    await execute('find', ['/tmp/bench-files', '-name', 'disk.*', '-delete'])
    await execute('sync')
  }
}

/** Bytes that were written to a disk of the kernel's. */
function writtenTo(name) {
  const fields = readFileSync(`/sys/block/${name}/stat`, 'utf8').trim().split(/\s+/)
  return Number(fields[6]) * 512
}
