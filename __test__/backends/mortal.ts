import { defineBackend } from 'ublk-ts'

/** A disk in shared memory whose worker ends in the middle of a write, each time it is told to. */
export interface Options {
  bytes: SharedArrayBuffer
  /** 1 tells it. */
  told: SharedArrayBuffer
}

export default defineBackend(({ bytes, told }: Options) => {
  const disk = new Uint8Array(bytes)
  const orders = new Int32Array(told)
  const zero = ({ offset, length }: { offset: number; length: number }): void => {
    disk.fill(0, offset, offset + length)
  }
  return {
    size: disk.length,
    read: ({ offset, length }, into) => into.set(disk.subarray(offset, offset + length)),
    write({ offset }, from) {
      if (Atomics.exchange(orders, 0, 0) === 1) {
        disk.set(from.subarray(0, from.length / 2), offset)
        process.exit(3)
      }
      disk.set(from, offset)
    },
    flush: () => {},
    discard: zero,
    writeZeroes: zero,
  }
})
