/**
 * A disk in a SQLite database, a row for each chunk that was ever written. All writes since the last flush are one
 * transaction: a crash takes the disk back to a flush, never to something between.
 *
 * For one queue, since SQLite has one writer; and not for a device with `recovery`: what a lost worker had not
 * committed is gone, which the disk's users would not know.
 */
import { DatabaseSync } from '@photostructure/sqlite' // node:sqlite's class, for every Node
import { type DiskRequest, defineBackend } from 'ublk-ts'

const CHUNK = 16 * 1024

export interface Options {
  /** Of the database; it is made if it does not exist. */
  path: string
  /** Of the disk, in bytes. */
  size: number
}

export default defineBackend(({ path, size }: Options) => {
  const database = new DatabaseSync(path)
  // Exclusive, so that nobody else opens the same disk.
  database.exec(`PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
    CREATE TABLE IF NOT EXISTS chunk (id INTEGER PRIMARY KEY, bytes BLOB NOT NULL); BEGIN IMMEDIATE`)
  const range = database.prepare('SELECT id, bytes FROM chunk WHERE id BETWEEN ? AND ?')
  const put = database.prepare('REPLACE INTO chunk VALUES (?, ?)')
  const drop = database.prepare('DELETE FROM chunk WHERE id BETWEEN ? AND ?')

  const find = (first: number, last: number): { id: number; bytes: Uint8Array }[] =>
    range.all(first, last) as { id: number; bytes: Uint8Array }[]
  const commit = (): void => database.exec('COMMIT; BEGIN IMMEDIATE')

  /** Zeroes what lies within one chunk; a chunk that is not there is zeroes already. */
  const blank = (from: number, to: number): void => {
    const id = Math.floor(from / CHUNK)
    const [chunk] = from < to ? find(id, id) : []
    if (chunk) put.run(id, chunk.bytes.fill(0, from - id * CHUNK, to - id * CHUNK))
  }
  const zero = ({ offset, length, fua }: DiskRequest): void => {
    const end = offset + length
    const first = Math.ceil(offset / CHUNK)
    const last = Math.floor(end / CHUNK)
    if (first > last) blank(offset, end)
    else {
      drop.run(first, last - 1)
      blank(offset, first * CHUNK)
      blank(last * CHUNK, end)
    }
    if (fua) commit()
  }

  return {
    size,
    read({ offset, length }, into) {
      into.fill(0)
      const last = Math.floor((offset + length - 1) / CHUNK)
      for (const { id, bytes } of find(Math.floor(offset / CHUNK), last)) {
        const at = id * CHUNK - offset
        into.set(bytes.subarray(Math.max(0, -at), length - at), Math.max(0, at))
      }
    },
    write({ offset, length, fua }, from) {
      for (let done = 0; done < length; ) {
        const id = Math.floor((offset + done) / CHUNK)
        const at = offset + done - id * CHUNK
        const part = from.subarray(done, done + CHUNK - at)
        const [chunk] = part.length < CHUNK ? find(id, id) : []
        const bytes = chunk?.bytes ?? new Uint8Array(CHUNK)
        bytes.set(part, at)
        put.run(id, bytes)
        done += part.length
      }
      if (fua) commit()
    },
    flush: commit,
    discard: zero,
    writeZeroes: zero,
    close() {
      database.exec('COMMIT')
      database.close()
    },
  }
})
