/** A disk that discards writes, and delays each request while a file exists. */
import { existsSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { defineBackend } from 'ublk-ts'

export default defineBackend(({ size, flag, delay }: { size: number; flag: string; delay: number }) => {
  const wait = async (): Promise<void> => {
    if (existsSync(flag)) await sleep(delay)
  }
  return {
    size,
    read: async (_, into) => {
      await wait()
      into.fill(0)
    },
    write: wait,
    flush: wait,
  }
})
