/**
 * A disk whose contents lie on a web server: parts of the image are fetched with range requests when they are first
 * read, and kept in a cache. It can be written to: that stays in the cache too, and the image is never changed.
 *
 *     const disk = await UblkDevice.create({ backend: await httpDisk('https://…/image.raw', 'image.cache') })
 */
import { type LazyBackend, lazy } from 'ublk-ts'

const SECTOR = 512

export async function httpDisk(url: string, cache?: string): Promise<LazyBackend> {
  const head = await fetch(url, { method: 'HEAD' })
  if (!head.ok) throw new Error(`${url}: the server answers ${head.status}`)
  if (head.headers.get('accept-ranges') !== 'bytes')
    throw new Error(`${url}: the server has no range requests`)
  const bytes = Number(head.headers.get('content-length'))
  const version = head.headers.get('etag') ?? head.headers.get('last-modified') ?? ''

  return lazy({
    size: Math.ceil(bytes / SECTOR) * SECTOR,
    cache,
    identity: `${url} ${version}`,
    async fetch({ offset, length, signal }) {
      const last = Math.min(offset + length, bytes) - 1
      const response = await fetch(url, { headers: { range: `bytes=${offset}-${last}` }, signal })
      if (response.status !== 206) throw new Error(`the server answers ${response.status}`)
      const now = response.headers.get('etag') ?? response.headers.get('last-modified') ?? ''
      if (now !== version) throw Object.assign(new Error('the image has changed'), { code: 'ESTALE' })
      // An image may end within a sector.
      const data = new Uint8Array(length)
      data.set(new Uint8Array(await response.arrayBuffer()))
      return data
    },
  })
}
