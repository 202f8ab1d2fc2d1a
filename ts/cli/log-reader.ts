import { closeSync, fstatSync, openSync, readFileSync, readSync, statSync } from 'node:fs'
import { StringDecoder } from 'node:string_decoder'
import { EARLIER } from '../daemon/log-file.js'
import { UblkError } from '../errors.js'
import { printable } from '../printable.js'

/** Reads a log that others write, rotate and replace. */
export class LogReader implements Disposable {
  readonly #path: string
  #file: number
  #at = 0
  #decoder = new StringDecoder('utf8')
  #rest = ''

  /** @throws UblkError of kind `not-found` if there is no such file. */
  constructor(path: string) {
    this.#path = path
    this.#file = open(path)
  }

  /** The last lines that are there, of which some may have been rotated away. */
  last(count: number): string[] {
    const now = this.#read()
    const earlier = now.length < count ? earlierLines(this.#path) : []
    return [...earlier, ...now].slice(-count)
  }

  /** The lines since the last call. */
  more(): string[] {
    const lines = this.#read()
    if (!this.#isReplaced()) return lines
    // If it cannot be opened, the present one stays open until this is disposed of, and no other file is closed then.
    const next = open(this.#path)
    closeSync(this.#file)
    this.#file = next
    this.#begin()
    return [...lines, ...this.#read()]
  }

  #isReplaced(): boolean {
    const entry = statSync(this.#path, { bigint: true, throwIfNoEntry: false })
    return entry !== undefined && entry.ino !== fstatSync(this.#file, { bigint: true }).ino
  }

  #begin(): void {
    this.#at = 0
    this.#rest = ''
    this.#decoder = new StringDecoder('utf8')
  }

  #read(): string[] {
    // It is truncated when it is rotated.
    if (fstatSync(this.#file).size < this.#at) this.#begin()
    const buffer = Buffer.alloc(2 ** 16)
    let text = this.#rest
    for (;;) {
      const length = readSync(this.#file, buffer, 0, buffer.length, this.#at)
      if (length === 0) break
      this.#at += length
      text += this.#decoder.write(buffer.subarray(0, length))
    }
    const lines = text.split('\n')
    this.#rest = lines.pop() ?? ''
    return lines.map(printable)
  }

  [Symbol.dispose](): void {
    closeSync(this.#file)
  }
}

function open(path: string): number {
  try {
    return openSync(path, 'r')
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    throw new UblkError(code === 'ENOENT' ? 'not-found' : 'system', `cannot read the log ${path}: ${code}`, {
      cause,
    })
  }
}

function earlierLines(path: string): string[] {
  try {
    return readFileSync(path + EARLIER, 'utf8')
      .split('\n')
      .slice(0, -1)
      .map(printable)
  } catch {
    return []
  }
}
