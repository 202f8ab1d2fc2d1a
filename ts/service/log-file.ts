import { copyFileSync, fstatSync, ftruncateSync, readlinkSync, rmSync, writeSync } from 'node:fs'

/** How large a log grows before it begins anew, in bytes. */
const LARGEST = 4 * 2 ** 20

/** What is added to a log's name for the one before. */
export const EARLIER = '.1'

/**
 * A log in a file of its own, which a descriptor that appends is open on. It begins anew when it is large, and the one before is
 * kept beside it. Several processes may write to it, a disk's old server and its new one: so it is copied and cut short
 * rather than moved away from them. Where there is no room, lines are lost, and nothing else.
 */
export class LogFile {
  readonly #file: number
  readonly #largest: number
  /** What was written since the size was looked at, in bytes: others write too. */
  #since = Number.POSITIVE_INFINITY

  constructor(file: number, largest: number = LARGEST) {
    this.#file = file
    this.#largest = largest
  }

  write(line: string): void {
    const bytes = Buffer.from(line)
    try {
      for (let at = 0; at < bytes.length; ) at += writeSync(this.#file, bytes, at)
    } catch {} // It is lost; the disk is not.
    this.#since += bytes.length
    if (this.#since >= this.#largest / 64) this.#look()
  }

  #look(): void {
    this.#since = 0
    try {
      const entry = fstatSync(this.#file)
      if (!entry.isFile() || entry.size < this.#largest) return
      this.#keep()
      ftruncateSync(this.#file)
    } catch {} // It is looked at again.
  }

  /** Under its present name: a disk's log is renamed when that has its number. */
  #keep(): void {
    const path = readlinkSync(`/proc/self/fd/${this.#file}`)
    try {
      rmSync(path + EARLIER, { force: true })
      copyFileSync(path, path + EARLIER)
    } catch {
      rmSync(path + EARLIER, { force: true }) // There is no room for both: then there is only the new one.
    }
  }
}
