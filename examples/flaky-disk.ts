/**
 * A disk for testing what stands on it: some operations take their time, some fail. It is served from the event loop
 * of the thread that makes it, so a test can turn the knobs while the disk is in use.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { DiskBackend, DiskRequest } from 'ublk-ts'

export interface Knobs {
  /** Milliseconds that each request takes at least. */
  delay: number
  /** The error that a request is to fail with, such as 'EIO' or 'ENOSPC'; nothing: it succeeds. */
  fail: (request: DiskRequest) => string | undefined
}

export function flaky(size: number, knobs: Knobs): DiskBackend {
  const bytes = new Uint8Array(size)
  const obey = async (request: DiskRequest): Promise<void> => {
    if (knobs.delay > 0) await sleep(knobs.delay)
    const code = knobs.fail(request)
    if (code) throw Object.assign(new Error(`${code} was asked for`), { code })
  }
  return {
    size,
    async read(request, into) {
      await obey(request)
      into.set(bytes.subarray(request.offset, request.offset + request.length))
    },
    async write(request, from) {
      await obey(request)
      bytes.set(from, request.offset)
    },
    flush: obey,
  }
}
