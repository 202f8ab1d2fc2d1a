import { defineBackend } from 'ublk-ts'

/** A disk in shared memory that does something bad when it reads the block at 1 MiB, as often as it is told. */
export interface Options {
  bytes: SharedArrayBuffer
  /** How often it still misbehaves. */
  left: SharedArrayBuffer
  how: 'throw' | 'loop' | 'exit' | 'exhaust'
}

export const BAD = 2 ** 20

export default defineBackend(({ bytes, left, how }: Options) => {
  const disk = new Uint8Array(bytes)
  const times = new Int32Array(left)
  return {
    size: disk.length,
    read({ offset, length }, into) {
      if (offset <= BAD && BAD < offset + length && Atomics.load(times, 0) > 0) {
        Atomics.sub(times, 0, 1)
        misbehave(how)
      }
      into.set(disk.subarray(offset, offset + length))
    },
    write: ({ offset }, from) => disk.set(from, offset),
  }
})

const nobody = new Int32Array(new SharedArrayBuffer(4))

function misbehave(how: Options['how']): void {
  if (how === 'throw') throw Object.assign(new Error('no room'), { code: 'ENOSPC' })
  if (how === 'exit') process.exit(3)
  const kept: unknown[] = []
  while (how === 'exhaust') kept.push(new Array(1e6).fill(kept.length))
  // Not busy, only lost: User-Mode Linux gives a process one processor, which a busy thread would not share.
  while (how === 'loop') Atomics.wait(nobody, 0, 0, 10)
}
