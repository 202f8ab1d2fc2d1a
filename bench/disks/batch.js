// A disk in memory that takes whole batches.

import { defineBackend, Op } from 'ublk-ts'

export default defineBackend(({ size }) => {
  const disk = new Uint8Array(size)
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
