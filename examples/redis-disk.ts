/**
 * A disk in Redis, a key for each chunk that was ever written. Every request goes out as it comes; many are under
 * way at a time. While the server is away requests fail; the client reaches for it until it is back.
 *
 * A finished write is as durable as the server's `appendfsync` makes it: the disk has no flush of its own.
 */
import { createClient, RESP_TYPES } from '@redis/client'
import { type DiskRequest, defineBackend } from 'ublk-ts'
import { parts, settled } from './chunks.js'

const CHUNK = 64 * 1024

export interface Options {
  /** Of the server: `redis://host:port` or `unix:///path`. */
  url: string
  /** What the disk's keys begin with. */
  name: string
  /** Of the disk, in bytes. */
  size: number
}

export default defineBackend(async ({ url, name, size }: Options) => {
  let reached = false
  const client = createClient({
    url,
    disableOfflineQueue: true,
    // A server that was never there is a wrong address, which should be told at once.
    socket: { reconnectStrategy: () => reached && 100 },
  }).withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer })
  client.on('error', () => {}) // The requests that fail tell it.
  await client.connect()
  reached = true

  async function zero(request: DiskRequest): Promise<void> {
    const all = parts(request, CHUNK)
    const whole = all.filter(({ count }) => count === CHUNK).map(({ id }) => `${name}:${id}`)
    const answers: Promise<unknown>[] = all
      .filter(({ count }) => count < CHUNK)
      .map(({ id, at, count }) => client.setRange(`${name}:${id}`, at, Buffer.alloc(count)))
    if (whole.length > 0) answers.push(client.unlink(whole))
    await settled(answers)
  }

  return {
    size,
    async read(request, into) {
      const answers = parts(request, CHUNK).map(async ({ id, at, done, count }) => {
        const bytes = await client.getRange(`${name}:${id}`, at, at + count - 1)
        if (bytes) into.set(bytes, done)
        into.fill(0, done + (bytes?.length ?? 0), done + count) // never written
      })
      await settled(answers)
    },
    async write(request, from) {
      const answers = parts(request, CHUNK).map(({ id, at, done, count }) =>
        client.setRange(`${name}:${id}`, at, Buffer.from(from.buffer, from.byteOffset + done, count)),
      )
      await settled(answers)
    },
    discard: zero,
    writeZeroes: zero,
    close: () => client.destroy(),
  }
})
