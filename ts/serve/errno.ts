import { constants } from 'node:os'

const EIO = constants.errno.EIO

/** The negative error number that a backend's failure means to the disk's user. */
export function errnoOf(error: unknown): number {
  if (typeof error !== 'object' || error === null) return -EIO
  const { errno, code } = error as { errno?: unknown; code?: unknown }
  if (typeof code === 'string') {
    const known = (constants.errno as Record<string, number>)[code]
    if (known !== undefined) return -known
  }
  // Node's own errors have it negative, ours positive.
  if (typeof errno === 'number' && Number.isInteger(errno) && errno !== 0 && Math.abs(errno) < 4096) {
    return -Math.abs(errno)
  }
  return -EIO
}

/** What a failure is in one line. */
export function inOneLine(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error)
  return text.replace(/\s+/g, ' ').trim() || 'no reason given'
}
