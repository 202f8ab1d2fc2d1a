// A disk in memory, a method per operation.

import { defineBackend } from 'ublk-ts'

export default defineBackend(({ size }) => {
  const disk = new Uint8Array(size)
  return {
    size,
    read: ({ offset, length }, into) => into.set(disk.subarray(offset, offset + length)),
    write: ({ offset }, from) => disk.set(from, offset),
  }
})
