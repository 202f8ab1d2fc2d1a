/** Files in memory for data that has to outlive its server. */

const PREFIX = '/dev/shm/ublk-ts-'

/** The path of a new one. */
export function scratchFile(): string {
  return `${PREFIX}${crypto.randomUUID()}`
}

/** Whether it is the path of such a file, which another disk does not have. */
export function isScratchFile(path: unknown): path is string {
  return typeof path === 'string' && path.startsWith(PREFIX)
}
