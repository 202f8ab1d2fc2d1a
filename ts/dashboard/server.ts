import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { UblkError, wrap } from '../errors.js'
import { DiskWatch, pause } from './disk-watch.js'
import { Feed } from './feed.js'
import { Guard, type Refusal } from './guard.js'
import { type PageFile, readPage } from './page-file.js'
import { ACTIONS, type Action } from './protocol.js'
import type { Source } from './source.js'
import { Stream } from './stream.js'

/** How a dashboard is served. */
export interface Options {
  /** The port; 0: a free one. */
  readonly port: number
  /** Whether its page may change disks. */
  readonly mayChange: boolean
  /** How often the disks are read, in milliseconds. */
  readonly period?: number
  /** What time it is, in milliseconds since 1970. */
  readonly now?: () => number
}

/** How long a request may take to come in, in milliseconds, and how many connections there may be. */
const PATIENCE = 10_000
const MOST_CONNECTIONS = 64
/** How many pages may look at all disks, and how many at single ones. */
const MOST_STREAMS = 16
/** The most bytes of a request's body, which is ignored. */
const MOST_BODY = 1024
/** For how long the disks are read when nobody looks: a page that is loaded again still has its past. */
const LINGER = 60_000

/** How long a page waits for what is known of its disk beside its numbers, in milliseconds. It may come later. */
const FIRST_LOOK = 1000

const HEADERS = {
  'cache-control': 'no-store',
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
  'referrer-policy': 'no-referrer',
  'x-content-type-options': 'nosniff',
  'x-frame-options': 'DENY',
}

/** Serves the page, and what happens on the disks, to those who have the URL. On the loopback address only. */
export class Dashboard {
  readonly #server: Server
  readonly #guard = new Guard()
  readonly #page: PageFile = readPage()
  readonly #source: Source
  readonly #feed: Feed
  readonly #options: Options
  readonly #ended = new AbortController()
  readonly #streams = new Set<Stream>()
  readonly #watched = new Map<number, DiskWatch>()
  /** Reads the disks, and the first time that it has. */
  #looking: Promise<void> | undefined
  #first: Promise<void> = Promise.resolve()

  private constructor(source: Source, options: Options) {
    this.#source = source
    this.#options = options
    this.#feed = new Feed(source, options.now)
    const times = { requestTimeout: PATIENCE, headersTimeout: PATIENCE, keepAliveTimeout: PATIENCE }
    this.#server = createServer(times, (request, response) => {
      this.#answer(request, response).catch(error => refuse(response, 500, wrap(error).message))
    })
    this.#server.maxConnections = MOST_CONNECTIONS
  }

  /**
   * Listens.
   *
   * @throws UblkError of kind `system` if it cannot.
   */
  static async listen(source: Source, options: Options): Promise<Dashboard> {
    const dashboard = new Dashboard(source, options)
    const server = dashboard.#server
    await new Promise<void>((resolve, reject) => {
      server.once('error', cause => {
        reject(
          new UblkError('system', `cannot listen at 127.0.0.1:${options.port}: ${cause.message}`, { cause }),
        )
      })
      server.listen(options.port, '127.0.0.1', resolve)
    })
    server.on('error', () => {}) // Such as too many open files: the next one may have more luck.
    return dashboard
  }

  /** Where it is, without the token. */
  get origin(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  /** What to open in a browser. What follows `#` is not sent: the page keeps the token. */
  get url(): string {
    return `${this.origin}/#token=${this.#guard.token}`
  }

  /** Ends it and all its connections. */
  async close(): Promise<void> {
    this.#ended.abort()
    for (const watch of this.#watched.values()) watch.end()
    this.#server.close()
    this.#server.closeAllConnections()
    await this.#looking
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    for (const [name, value] of Object.entries(HEADERS)) response.setHeader(name, value)
    response.setHeader('content-security-policy', this.#page.policy)
    const { method = '', url = '/', headers } = request
    const asked = { method, url, headers }
    const refusal = this.#guard.refusesOrigin(asked) ?? tooLong(request)
    if (refusal) return refuse(response, refusal.status, refusal.why)
    request.resume() // Its body is ignored.
    const path = url.split('?', 1)[0] ?? ''
    const reads = method === 'GET' || method === 'HEAD'
    // It has no secret: what it shows comes by events, for which it needs the token.
    if (path === '/' && reads) return this.#sendPage(response, method)
    if (!this.#guard.admits(asked, { byQuery: method === 'GET' })) {
      return refuse(response, 401, 'open the URL that was printed when the dashboard was started')
    }
    const [, id, what = ''] = /^\/disks\/(\d{1,9})\/([a-z-]+)$/.exec(path) ?? []
    if (path === '/events' && method === 'GET') return await this.#sendAll(response)
    if (id !== undefined && what === 'events' && method === 'GET')
      return await this.#sendOne(response, Number(id))
    if (id !== undefined && isAction(what)) return await this.#act(method, response, Number(id), what)
    return refuse(response, 404, 'there is nothing here')
  }

  #sendPage(response: ServerResponse, method: string): void {
    const { html } = this.#page
    response.writeHead(200, { 'content-type': 'text/html; charset=utf-8', 'content-length': html.length })
    response.end(method === 'HEAD' ? undefined : html)
  }

  async #sendAll(response: ServerResponse): Promise<void> {
    await this.#begin()
    if (response.destroyed) return // 'close' does not come any more.
    if (this.#streams.size >= MOST_STREAMS) return refuse(response, 503, 'too many pages look at the disks')
    const beginning = () => [['disks', JSON.stringify(this.#feed.disks(this.#options.mayChange))] as const]
    const stream = new Stream(response, beginning)
    this.#streams.add(stream)
    response.once('close', () => this.#streams.delete(stream))
  }

  async #sendOne(response: ServerResponse, id: number): Promise<void> {
    await this.#begin()
    if (response.destroyed) return
    if (!this.#feed.has(id)) return refuse(response, 404, 'there is no such disk')
    const all = [...this.#watched.values()].reduce((sum, watch) => sum + watch.size, 0)
    if (all >= MOST_STREAMS) return refuse(response, 503, 'too many pages look at disks')
    const watch = this.#watched.get(id) ?? new DiskWatch(this.#source, this.#feed, id)
    this.#watched.set(id, watch)
    let stream: Stream | undefined
    // It counts from now on: another page that leaves meanwhile does not end the watch.
    watch.enter()
    response.once('close', () => {
      watch.leave(stream)
      this.#leave(id, watch)
    })
    await Promise.race([watch.look(), pause(FIRST_LOOK, this.#ended.signal)])
    if (response.destroyed) return
    stream = new Stream(response, () => watch.beginning())
    watch.add(stream)
  }

  #leave(id: number, watch: DiskWatch): void {
    if (watch.size > 0 || this.#watched.get(id) !== watch) return
    this.#watched.delete(id)
    watch.end()
  }

  async #act(method: string, response: ServerResponse, id: number, action: Action): Promise<void> {
    if (!this.#options.mayChange) {
      return refuse(response, 403, 'this dashboard was started only to look at disks')
    }
    if (method !== 'POST') {
      response.setHeader('allow', 'POST')
      return refuse(response, 405, 'only POST is possible')
    }
    try {
      await this.#source.act(id, action)
    } catch (error) {
      return refuse(response, 409, wrap(error).message)
    }
    response.writeHead(204).end()
  }

  /** Reads the disks from now on; at least once before it resolves. */
  async #begin(): Promise<void> {
    if (this.#looking) return await this.#first
    let done = (): void => {}
    this.#first = new Promise(resolve => {
      done = resolve
    })
    this.#looking = this.#look(done).finally(() => {
      this.#looking = undefined
    })
    await this.#first
  }

  async #look(first: () => void): Promise<void> {
    const { period = 1000 } = this.#options
    const { signal } = this.#ended
    let [due, idle] = [performance.now(), performance.now()]
    while (!signal.aborted) {
      const tick = await this.#feed.look()
      const text = JSON.stringify(tick)
      for (const stream of this.#streams) stream.send('tick', text)
      // Not awaited: one that hangs, as on a network file system, holds up nobody else.
      for (const watch of this.#watched.values()) watch.look().catch(() => {})
      first()
      const now = performance.now()
      if (this.#streams.size > 0 || this.#watched.size > 0) idle = now
      if (now - idle > LINGER) return
      // A machine that is too slow skips looks.
      due = Math.max(due + period, now + period / 4)
      await pause(due - now, signal)
    }
  }
}

function isAction(what: string): what is Action {
  return (ACTIONS as readonly string[]).includes(what)
}

function tooLong({ headers }: IncomingMessage): Refusal | undefined {
  const length = Number(headers['content-length'] ?? 0)
  if (headers['transfer-encoding'] === undefined && length <= MOST_BODY) return undefined
  return { status: 413, why: 'the request is too long' }
}

function refuse(response: ServerResponse, status: number, why: string): void {
  if (response.headersSent) {
    response.destroy()
    return
  }
  const text = `${why}\n`
  // What comes after a body that is too long is not read.
  if (status === 413) response.setHeader('connection', 'close')
  response.writeHead(status, {
    'content-type': 'text/plain; charset=utf-8',
    'content-length': Buffer.byteLength(text),
  })
  response.end(text)
}
