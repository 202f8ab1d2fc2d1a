import { type DiskBackend, type DiskRequest, defineBackend, type RequestLimits } from 'ublk-ts'

export interface Options {
  limits: RequestLimits
  chunk: number
  /** What it has seen: how many requests crossed a chunk, and the longest request in bytes. */
  seen: Int32Array
}

/** A disk with limits that looks at the size and position of its requests. */
export default defineBackend(({ limits, chunk, seen }: Options): DiskBackend => {
  const look = ({ offset, length }: DiskRequest): void => {
    if (Math.floor(offset / chunk) !== Math.floor((offset + length - 1) / chunk)) Atomics.add(seen, 0, 1)
    if (length > Atomics.load(seen, 1)) Atomics.store(seen, 1, length) // One queue, so one thread.
  }
  return { size: '16M', limits, read: look, write: look }
})
