import { setTimeout as sleep } from 'node:timers/promises'
import { formatSize } from '../size.js'

/** How often it is looked how far something is, in milliseconds. */
const LOOK = 500

/** How far something has come, in bytes. */
export interface Amount {
  readonly done: number
  readonly size: number
}

/** Shows on a terminal how far some work is, until it ends; elsewhere nothing. */
export async function shown(work: Promise<void>, look: () => Promise<Amount | undefined>): Promise<void> {
  if (!process.stderr.isTTY) return await work
  let over = false
  const ended = work.finally(() => {
    over = true
  })
  const watch = async (): Promise<void> => {
    const began = performance.now()
    let first: number | undefined
    while (!over) {
      await Promise.race([ended.catch(() => {}), sleep(LOOK, undefined, { ref: false })])
      const amount = await look().catch(() => undefined)
      if (over || amount === undefined) continue
      first ??= amount.done
      const line = progressLine(amount, amount.done - first, (performance.now() - began) / 1000)
      process.stderr.write(`\r${line.slice(0, (process.stderr.columns || 80) - 1)}\x1b[K`)
    }
    process.stderr.write('\r\x1b[K')
  }
  await Promise.all([ended, watch().catch(() => {})])
}

/**
 * `37% of 1G, 52.1M/s, 13 s left`.
 *
 * @param since - How much was done in `seconds`.
 */
export function progressLine({ done, size }: Amount, since: number, seconds: number): string {
  const rate = since / Math.max(seconds, 0.001)
  const left = rate > 0 ? `, ${formatSize(rate)}/s, ${timeLeft((size - done) / rate)} left` : ''
  return `${Math.floor((done / Math.max(size, 1)) * 100)}% of ${formatSize(size)}${left}`
}

function timeLeft(seconds: number): string {
  if (seconds < 100) return `${Math.ceil(seconds)} s`
  return seconds < 6000 ? `${Math.ceil(seconds / 60)} min` : `${Math.ceil(seconds / 3600)} h`
}
