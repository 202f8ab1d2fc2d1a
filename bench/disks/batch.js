// A disk in memory that takes whole batches.

import { defineBackend, Op } from 'ublk-ts'
import { room } from './room.js'

export default defineBackend(({ size }) => {
  const disk = room(size)
  return {
    size,
    process(batch) {
      const { count, op, offset, length } = batch
      for (let i = 0; i < count; i++) {
        const at = offset[i]
        if (op[i] === Op.read) batch.data(i).set(disk.subarray(at, at + length[i]))
        else disk.set(batch.data(i), at)
      }
    },
  }
})
