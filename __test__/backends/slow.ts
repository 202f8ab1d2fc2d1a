/** A disk that forgets, and takes its time for each request as long as a file is there. */
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
