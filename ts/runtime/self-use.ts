import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs'

/** How often to look at most, in milliseconds. */
const INTERVAL = 1000

/**
 * Finds out whether a process that serves a disk from an event loop is the disk's client too. Its first synchronous
 * call there waits for an answer that its own thread would have to give, and nothing can end that wait; a call that
 * opens the disk and reads at once cannot be seen coming.
 */
export class SelfUse {
  readonly #path: string
  #looked = 0
  #told = false

  /** @param path - The disk. */
  constructor(path: string) {
    this.#path = path
  }

  /** Looks, now and then, as the disk is used. True once. */
  found(): boolean {
    const now = performance.now()
    if (this.#told || now - this.#looked < INTERVAL) return false
    this.#looked = now
    this.#told = isOpenHere(this.#path)
    return this.#told
  }
}

/** Whether this process has the disk open, or a file of a file system on it, as far as this process can see. */
function isOpenHere(path: string): boolean {
  try {
    return hasOpen(path)
  } catch {
    return false // There is no /proc, or no free descriptor.
  }
}

/** Uses only calls that never wait for a disk. */
function hasOpen(path: string): boolean {
  const mounts = mountsOf(path)
  return readdirSync('/proc/self/fd').some(fd => {
    try {
      if (readlinkSync(`/proc/self/fd/${fd}`) === path) return true
      if (mounts.size === 0) return false
      const [, mount = ''] = /^mnt_id:\s*(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8')) ?? []
      return mounts.has(mount)
    } catch {
      return false // closed meanwhile, as the directory's own
    }
  })
}

/** The numbers of the mounts of a disk. */
function mountsOf(path: string): Set<string> {
  const number = statSync(path, { throwIfNoEntry: false })?.rdev
  if (number === undefined) return new Set()
  // As the kernel's dev_t is packed for user space.
  const [major, minor] = [(number >> 8) & 0xfff, (number & 0xff) | ((number >> 12) & 0xfff00)]
  const lines = readFileSync('/proc/self/mountinfo', 'utf8').split('\n')
  const fields = lines.map(line => line.split(' ')).filter(([, , device]) => device === `${major}:${minor}`)
  return new Set(fields.map(([id = '']) => id))
}
