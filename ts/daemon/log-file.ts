import {
  closeSync,
  copyFileSync,
  fstatSync,
  ftruncateSync,
  openSync,
  readlinkSync,
  rmSync,
  writeSync,
} from 'node:fs'

/** The size at which a log is rotated, in bytes. */
const LARGEST = 4 * 2 ** 20

const STDERR = 2

/** The suffix of the rotated log. */
export const EARLIER = '.1'

/**
 * A log in a file, open for appending. When it is large it is rotated, and one earlier log is kept. A disk's old and
 * new server may write to it at the same time, so rotation copies and truncates it rather than renaming it. If the file
 * system is full, lines are lost, and nothing else.
 */
export class LogFile {
  #file: number
  readonly #largest: number
  /** Bytes written since the size was last checked; other processes write, too. */
  #since = Number.POSITIVE_INFINITY

  constructor(file: number, largest: number = LARGEST) {
    this.#file = file
    this.#largest = largest
  }

  /**
   * Goes on in the file at a path: the present one may have been moved away, as logrotate does. What Node itself says when it
   * crashes still goes to the present one, which stderr is.
   */
  reopen(path: string): void {
    const file = openSync(path, 'a', 0o600)
    if (this.#file !== STDERR) closeSync(this.#file)
    this.#file = file
    this.#since = Number.POSITIVE_INFINITY
  }

  write(line: string): void {
    const bytes = Buffer.from(line)
    try {
      for (let at = 0; at < bytes.length; ) at += writeSync(this.#file, bytes, at)
    } catch {} // The line is lost; the disk is not affected.
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
    } catch {} // It is checked again later.
  }

  /** Under its present name: a disk's log is renamed once the disk has its number. */
  #keep(): void {
    const path = readlinkSync(`/proc/self/fd/${this.#file}`)
    try {
      rmSync(path + EARLIER, { force: true })
      copyFileSync(path, path + EARLIER)
    } catch {
      rmSync(path + EARLIER, { force: true }) // There is no space for both: only the new one is kept.
    }
  }
}
