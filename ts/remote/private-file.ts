/** Files shared by this user's processes, which no other user may read or write. */
import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  lstatSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  type Stats,
  writeSync,
} from 'node:fs'

const { O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY } = constants

/** The maximum size of a file that is read, in bytes: far more than any record. */
const LONGEST = 2 ** 20

/** The reason why a file is not read; follows the file's name and a colon. */
export class PrivateFileError extends Error {}

/**
 * Reads a file, if there is one.
 *
 * @throws PrivateFileError if another user may have written it, or it is not a regular file.
 */
export function readPrivate(path: string): string | undefined {
  const file = openToRead(path)
  if (file === undefined) return undefined
  try {
    const entry = fstatSync(file)
    check(entry)
    return readAll(file, entry.size)
  } catch (cause) {
    throw unreadable(cause)
  } finally {
    closeSync(file)
  }
}

/** Follows no symbolic link, and does not wait for a FIFO's writer. */
function openToRead(path: string): number | undefined {
  try {
    return openSync(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT') return undefined
    throw code === 'ELOOP' ? new PrivateFileError('it is a symbolic link') : unreadable(error)
  }
}

function check(entry: Stats): void {
  if (!entry.isFile()) throw new PrivateFileError('it is no regular file')
  if (entry.uid !== 0 && entry.uid !== process.geteuid?.()) {
    throw new PrivateFileError(`it belongs to user ${entry.uid}`)
  }
  if ((entry.mode & 0o022) !== 0) throw new PrivateFileError('others may write to it')
  if (entry.size > LONGEST) throw new PrivateFileError(`it has more than ${LONGEST} bytes`)
}

/** These files are replaced and never grow, so data beyond the size is not read. */
function readAll(file: number, size: number): string {
  const bytes = Buffer.alloc(size)
  let length = 0
  for (let more = -1; more !== 0 && length < size; length += more) {
    more = readSync(file, bytes, length, size - length, null)
  }
  return bytes.toString('utf8', 0, length)
}

function unreadable(error: unknown): PrivateFileError {
  if (error instanceof PrivateFileError) return error
  const { code, message } = error as NodeJS.ErrnoException
  return new PrivateFileError(`it cannot be read (${code ?? message})`)
}

/** The suffix of the spare file, which reserves space for the next write. */
export const SPARE = '.spare'

/** The reserved space, in bytes: a multiple of a page, enough for a slightly longer text. */
const PAGE = 4096
const LONGER = 512

/**
 * Replaces a file atomically. Beside it a spare file reserves the space for the next write, in case the file system is
 * full by then.
 *
 * @throws PrivateFileError for a text that is too long to be read again.
 */
export function replaceFile(path: string, text: string): void {
  if (Buffer.byteLength(text) > LONGEST)
    throw new PrivateFileError(`it would have more than ${LONGEST} bytes`)
  const next = `${path}.${process.pid}`
  rmSync(next, { force: true }) // left by an earlier process with the same number, or by another
  try {
    try {
      write(next, O_WRONLY | O_CREAT | O_EXCL, text)
    } catch (error) {
      if (!isFull(error)) throw error
      rmSync(next, { force: true })
      useSpare(path + SPARE, next, text, error)
    }
    renameSync(next, path)
  } catch (error) {
    rmSync(next, { force: true })
    throw error
  }
  keepRoom(path + SPARE, text)
}

/** Overwrites the spare file, which needs no further space. If that is too small, throws the first failure. */
function useSpare(spare: string, next: string, text: string, full: unknown): void {
  try {
    renameSync(spare, next)
    write(next, O_RDWR, text)
  } catch {
    throw full
  }
}

function write(path: string, flags: number, text: string): void {
  const file = openSync(path, flags | O_NOFOLLOW, 0o600)
  try {
    const bytes = Buffer.from(text)
    for (let at = 0; at < bytes.length; ) at += writeSync(file, bytes, at)
    ftruncateSync(file, bytes.length)
  } finally {
    closeSync(file)
  }
}

/** If there is space: without a spare file the next write may fail. */
function keepRoom(spare: string, text: string): void {
  const room = Math.ceil((Buffer.byteLength(text) + LONGER) / PAGE) * PAGE
  try {
    if ((lstatSync(spare, { throwIfNoEntry: false })?.size ?? 0) >= room) return
    rmSync(spare, { force: true })
    write(spare, O_WRONLY | O_CREAT | O_EXCL, ' '.repeat(room))
  } catch {
    rmSync(spare, { force: true })
  }
}

/** Whether the file system is full. */
export function isFull(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException
  return code === 'ENOSPC' || code === 'EDQUOT'
}
