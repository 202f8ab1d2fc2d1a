// The kernel's snapshots: a device over an origin, and another one for what is written. They need no server.

import { execFile } from 'node:child_process'
import { basename } from 'node:path'
import { promisify } from 'node:util'
import { makeNullBlock } from './kernel.js'

const execute = promisify(execFile)
/** Sectors of 512 bytes in a chunk, which is copied when a part of it is written. */
const CHUNK = 8
let made = 0

/** `dm-fresh` and `dm-present`: origin and store are disks in memory. `written` tells how many bytes the store got. */
export async function startSnapshot(words, { shape }) {
  const name = `${words.join('-')}-${++made}`
  const settings = size => ({ size, memory_backed: 1, submit_queues: 1, hw_queue_depth: shape.depth })
  const origin = makeNullBlock(`${name}-origin`, settings(shape.bytes / 2 ** 20))
  // The store has what is written, and tables.
  const store = makeNullBlock(`${name}-store`, settings((shape.bytes / 2 ** 20) * 1.25))
  await execute('dd', [
    'if=/dev/zero',
    `of=${origin.path}`,
    'bs=1M',
    `count=${shape.bytes / 2 ** 20}`,
    'oflag=direct',
  ])
  const line = `0 ${shape.bytes / 512} snapshot ${origin.path} ${store.path} P ${CHUNK}`
  await execute('dmsetup', ['create', name, '--noudevsync', '--table', line])
  const { stdout } = await execute('dmsetup', ['info', '-c', '--noheadings', '-o', 'blkdevname', name])
  const path = `/dev/${stdout.trim()}`
  return {
    path,
    store: basename(store.path),
    stop: async () => {
      await execute('dmsetup', ['remove', '--noudevsync', name])
      origin.stop()
      store.stop()
    },
  }
}
