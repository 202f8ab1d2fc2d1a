// A disk in memory that takes whole batches, for those who want every nanosecond.

import { defineBackend, Op } from 'ublk-ts'

export default defineBackend(({ size }) => {
  // WebAssembly's memory begins at a page, as the engine's own does. Large copies to and from there were measured to be
  // up to twice as fast as with what `new Uint8Array(size)` gets.
  const disk = new Uint8Array(new WebAssembly.Memory({ initial: size / 65536 }).buffer)
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
