/**
 * A disk of one queue in PostgreSQL, a row for each chunk that was ever written. One session has an advisory lock on the disk and
 * makes all requests: a process whose session has ended cannot write. Its requests fail until the disk is created again.
 *
 * What was written is durable after a flush: the commit that a flush waits for comes after those of the writes in PostgreSQL's log.
 */
import pg from 'pg'
import { type DiskRequest, defineBackend } from 'ublk-ts'
import { type Part, parts, settled } from './chunks.js'

const CHUNK = 16 * 1024
const EMPTY = Buffer.alloc(CHUNK)

export interface Options {
  /** Of the database: `postgresql://user@host/database`, or `postgresql:///database?host=/run/postgresql`. */
  url: string
  /** Of the disk: a database can have many. */
  name: string
  /** Of the disk, in bytes. */
  size: number
}

const TABLE = `CREATE TABLE IF NOT EXISTS disk_chunk
  (disk text, id bigint, bytes bytea NOT NULL, PRIMARY KEY (disk, id)); SET synchronous_commit = off`
const LOCK = 'SELECT pg_try_advisory_lock(hashtextextended($1, 0)) AS mine'
const READ = `SELECT id::int, at, substring(bytes FROM at + 1 FOR count) AS bytes
  FROM unnest($2::bigint[], $3::int[], $4::int[]) AS part (id, at, count) JOIN disk_chunk USING (id) WHERE disk = $1`
// A new chunk is zeroes but for what is written. Two writes to one chunk change the same row, one after the other.
const WRITE = `INSERT INTO disk_chunk AS old VALUES ($1, $2, overlay($5::bytea PLACING $4::bytea FROM $3::int + 1))
  ON CONFLICT (disk, id) DO UPDATE SET bytes = overlay(old.bytes PLACING $4 FROM $3 + 1)`
const DROP = 'DELETE FROM disk_chunk WHERE disk = $1 AND id = ANY ($2::bigint[])'
const FLUSH = `BEGIN; SET LOCAL synchronous_commit = on; SELECT pg_logical_emit_message(true, 'disk', ''); COMMIT`

export default defineBackend(async ({ url, name, size }: Options) => {
  const client = new pg.Client({ connectionString: url, keepAlive: true })
  client.on('error', () => {}) // The requests that fail tell it.
  await client.connect()
  try {
    await client.query(TABLE)
    const { rows } = await client.query(LOCK, [`ublk-ts ${name}`])
    if (!rows[0].mine) throw new Error(`the disk ${name} is in use by another session`)
  } catch (error) {
    await client.end()
    throw error
  }

  let last: Promise<unknown> = Promise.resolve()
  /** A session answers one query after the other. One with a name is parsed once. */
  async function ask(query: { name?: string; text: string; values?: unknown[] }): Promise<pg.QueryResult> {
    const answer = last.then(() => client.query(query))
    last = answer.catch(() => {})
    return await answer
  }

  const put = async ({ id, at }: Part, bytes: Uint8Array): Promise<unknown> =>
    await ask({ name: 'write', text: WRITE, values: [name, id, at, bytes, EMPTY] })
  const flush = async (): Promise<void> => {
    await ask({ text: FLUSH })
  }

  async function zero(request: DiskRequest): Promise<void> {
    const all = parts(request, CHUNK)
    const whole = all.filter(({ count }) => count === CHUNK).map(({ id }) => id)
    const answers = all.filter(({ count }) => count < CHUNK).map(part => put(part, Buffer.alloc(part.count)))
    if (whole.length > 0) answers.push(ask({ name: 'drop', text: DROP, values: [name, whole] }))
    await settled(answers)
    if (request.fua) await flush()
  }

  return {
    size,
    async read(request, into) {
      const all = parts(request, CHUNK)
      const values = [name, all.map(({ id }) => id), all.map(({ at }) => at), all.map(({ count }) => count)]
      const { rows } = await ask({ name: 'read', text: READ, values })
      const found = new Map<number, Buffer>(rows.map(({ id, bytes }) => [id, bytes]))
      for (const { id, done, count } of all) {
        const bytes = found.get(id)
        if (bytes) into.set(bytes, done)
        else into.fill(0, done, done + count) // never written
      }
    },
    async write(request, from) {
      await settled(
        parts(request, CHUNK).map(part => put(part, from.subarray(part.done, part.done + part.count))),
      )
      if (request.fua) await flush()
    },
    flush,
    discard: zero,
    writeZeroes: zero,
    close: () => client.end(),
  }
})
