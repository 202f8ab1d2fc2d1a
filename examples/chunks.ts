/** For disks of the examples that keep their data in chunks. */
import type { DiskRequest } from 'ublk-ts'

/** What of a chunk a request is for: `count` bytes, at `at` in the chunk and at `done` in the request. */
export interface Part {
  id: number
  at: number
  done: number
  count: number
}

/** The parts of a request, by chunks of `size` bytes. */
export function parts({ offset, length }: DiskRequest, size: number): Part[] {
  const all: Part[] = []
  for (let done = 0, count: number; done < length; done += count) {
    const at = (offset + done) % size
    count = Math.min(size - at, length - done)
    all.push({ id: (offset + done - at) / size, at, done, count })
  }
  return all
}

/** Waits for all, even if one fails: when a request's method has ended, its bytes become another's. */
export async function settled(answers: Promise<unknown>[]): Promise<void> {
  const failed = (await Promise.allSettled(answers)).find(answer => answer.status === 'rejected')
  if (failed) throw failed.reason
}
