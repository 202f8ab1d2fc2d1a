// The files that disks are over: on tmpfs, which is memory and nothing else, and on ext4, whose disk is memory too.

import { execFile } from 'node:child_process'
import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { SPAN } from './fio.js'
import { makeNullBlock } from './peers/kernel.js'

const execute = promisify(execFile)
const DIR = '/tmp/bench-files'
const MiB = SPAN + SPAN / 8

/** Makes the place for a file, and returns what takes it away. */
const PLACES = {
  tmpfs: async dir => {
    await execute('mount', ['-t', 'tmpfs', '-o', `size=${MiB}m`, 'none', dir])
    return () => {}
  },
  ext4: async dir => {
    const disk = makeNullBlock('files', { size: MiB, memory_backed: 1 })
    await execute('mkfs.ext4', ['-q', '-E', 'nodiscard', disk.path])
    await execute('mount', [disk.path, dir])
    return disk.stop
  },
}

/** Files that are made when a disk first asks for one; all disks over one place have the same. */
export function makeFiles() {
  const places = new Map()
  const make = async where => {
    const dir = join(DIR, where)
    mkdirSync(dir, { recursive: true })
    const end = await PLACES[where](dir)
    const path = join(dir, 'disk')
    await execute('dd', ['if=/dev/zero', `of=${path}`, 'bs=1M', `count=${SPAN}`, 'oflag=direct'])
    return { dir, path, end }
  }
  return {
    fileOn: async where => {
      if (!places.has(where)) places.set(where, await make(where))
      return places.get(where).path
    },
    remove: async () => {
      for (const { dir, end } of places.values()) {
        await execute('umount', [dir])
        end()
      }
      rmSync(DIR, { recursive: true, force: true })
    },
  }
}
