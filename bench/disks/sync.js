// A disk in memory, a method per operation.

import { defineBackend } from 'ublk-ts'
import { room } from './room.js'

export default defineBackend(({ size }) => {
  const disk = room(size)
  return {
    size,
    read: ({ offset, length }, into) => into.set(disk.subarray(offset, offset + length)),
    write: ({ offset }, from) => disk.set(from, offset),
  }
})
