// The files that disks are over: on tmpfs, which is memory and nothing else, and on ext4, whose disk is memory too.

import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { SPAN } from './fio.js'
import { makeNullBlock } from './peers/kernel.js'

const execute = promisify(execFile)
const DIR = '/tmp/bench-files'
/** Of each place: two sets of files fit, and what a file system needs. */
const MiB = 2 * SPAN + SPAN / 8
/** Of the one that has bases, and what is written over them. */
const MOST_MiB = 8 * SPAN

/** MiB that each of three slices leaves out at the beginning of the disk that it is a part of. */
export const MARGIN = 1

/** Bytes of a stripe that go to one file before the other. */
export const CHUNK = 64 << 10

/** Memory for the buffers of a load, which disks share with it. */
export const SHARED = '/dev/shm/bench-shared'

/** Makes that memory, if it is not there yet. */
export function makeShared() {
  if (existsSync(SHARED)) return SHARED
  writeFileSync(SHARED, '')
  truncateSync(SHARED, 4 << 20)
  return SHARED
}

/** The two files of a stripe. */
export async function halvesOn(where, fileOn) {
  return [await fileOn(where, 'left', SPAN / 2), await fileOn(where, 'right', SPAN / 2)]
}

let overlays = 0

/** A path of its own for what is written over the file there. */
async function beside(where, fileOn) {
  return `${await fileOn(where)}.${++overlays}`
}

/** A base there, and a new upper over it. */
export async function overlayOn(where, fileOn) {
  return { base: await fileOn('tmpfs'), upper: await beside(where, fileOn) }
}

/** The path of a new file there that is a hole. */
export async function sparseOn(where, fileOn) {
  const path = await beside(where, fileOn)
  writeFileSync(path, '')
  truncateSync(path, SPAN << 20)
  return path
}

/** A base on tmpfs, and a new qcow2 image over it. */
export async function clustersOn(where, fileOn) {
  const { base, upper } = await overlayOn(where, fileOn)
  await execute('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', base, '-F', 'raw', upper])
  return { base, image: upper }
}

/** A new qcow2 image over another one on tmpfs: rublk opens no raw base. */
export async function clustersOnClusters(where, fileOn) {
  const image = await beside(where, fileOn)
  const base = await imageOn('tmpfs', fileOn)
  await execute('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2', image])
  return image
}

/** The path of a qcow2 image there, all of whose clusters are allocated. */
export async function imageOn(where, fileOn) {
  const image = `${await fileOn(where)}.qcow2`
  const words = ['create', '-q', '-f', 'qcow2', '-o', 'preallocation=full', image, `${SPAN}M`]
  if (!existsSync(image)) await execute('qemu-img', words)
  return image
}

/** Makes the place for a file, and returns what takes it away. */
const PLACES = {
  tmpfs: async dir => {
    await execute('mount', ['-t', 'tmpfs', '-o', `size=${MOST_MiB}m`, 'none', dir])
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
    return { dir, files: new Map(), end: await PLACES[where](dir) }
  }
  const fill = async (path, size) => {
    await execute('dd', ['if=/dev/zero', `of=${path}`, 'bs=1M', `count=${size}`, 'oflag=direct'])
    return path
  }
  return {
    /** The path of the file with this name there: of `size` MiB, none of which is a hole. */
    fileOn: async (where, name = 'disk', size = SPAN + 3 * MARGIN) => {
      if (!places.has(where)) places.set(where, await make(where))
      const { dir, files } = places.get(where)
      if (!files.has(name)) files.set(name, await fill(join(dir, name), size))
      return files.get(name)
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
