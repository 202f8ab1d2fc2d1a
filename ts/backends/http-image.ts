/** An image on a web server, read in parts with range requests. */
import { clearTimeout, setTimeout } from 'node:timers'
import { setTimeout as sleep } from 'node:timers/promises'
import { UblkError } from '../errors.js'
import type { Fetch, FetchRange } from '../runtime/lazy-fetcher.js'
import { markFromServer, shownUrl } from './web-fetch.js'
import { type Answer, type Get, get, type RequestHeaders } from './web-request.js'

/** What a lazy disk needs to know of its image. */
export interface HttpImage {
  /** Of the disk, in bytes: that of the image up to a whole sector. */
  readonly size: number
  /** Names this version of it. */
  readonly identity: string
  readonly fetch: Fetch
}

const SECTOR = 512
/** How many redirects of one request are followed. */
const MOST_REDIRECTS = 5
const REDIRECTS: ReadonlySet<number | undefined> = new Set([301, 302, 303, 307, 308])
/** The longest body of a redirect that is read, in bytes, so that its connection can be used again. */
const MOST_OF_REDIRECT = 16 * 1024
/** How often a request is made before it fails. */
const ATTEMPTS = 5
/** The pause before the second attempt, in milliseconds; each further one is twice as long. */
const PAUSE = 200
/** The longest pause, even if the server asks for a longer one. */
const LONGEST_PAUSE = 10_000
/** An attempt ends when the server has sent nothing for this part of the time that all attempts have. */
const SILENCE = 1 / 4
/** After these a later attempt may succeed. */
const TEMPORARY: ReadonlySet<number | undefined> = new Set([408, 425, 429, 500, 502, 503, 504])

/**
 * Asks the server for the image's size and version, and for its first bytes: the kernel looks for partitions there as soon
 * as there is a disk.
 *
 * @param timeout - How long this may take, and how long a fetch may, in milliseconds.
 * @param first - How many bytes: as many as the first fetch will ask for; by default a sector, if the cache may have them.
 *   Never one: that of busybox takes `bytes=0-0` for all of the image.
 * @param request - Makes the requests.
 * @throws UblkError of kind `backend` if it cannot be read in parts; the signal's reason if it was aborted.
 */
export async function openHttpImage(
  url: string,
  { timeout, first = SECTOR }: { timeout: number; first?: number },
  signal: AbortSignal,
  request: Get = get,
): Promise<HttpImage> {
  const server = new WebServer(url, timeout * SILENCE, request)
  const late = AbortSignal.timeout(timeout)
  try {
    let bytes = 0
    const check = (answer: Answer): number => {
      bytes = sizeIn(answer, first)
      return Math.min(first, bytes)
    }
    const either = AbortSignal.any([signal, late])
    const { headers, data } = await server.ask(`bytes=0-${first - 1}`, undefined, either, check)
    const image = new Image(server, bytes, versionOf(headers), data)
    const fetch: Fetch = range => image.fetch(range)
    markFromServer(fetch)
    return {
      size: Math.ceil(bytes / SECTOR) * SECTOR,
      identity: await identityOf(url, bytes, image.version),
      fetch,
    }
  } catch (error) {
    signal.throwIfAborted()
    const why = late.aborted ? `no answer within ${timeout} ms` : (error as Error).message
    const hint = error instanceof Lasting ? error.hint : undefined
    throw new UblkError('backend', `cannot use ${shownUrl(url)}: ${why}`, {
      ...(hint === undefined ? {} : { hint }),
      cause: error,
    })
  }
}

/**
 * The query may be a signature, and another one each time. Without a version, it may be all that distinguishes two images; it
 * is hashed, since it may be secret.
 */
async function identityOf(url: string, bytes: number, version: string): Promise<string> {
  const { createHash } = await import('node:crypto') // Most programs never need it.
  const { search } = new URL(url)
  const query = version === '' && search !== '' ? ` ${createHash('sha256').update(search).digest('hex')}` : ''
  const identity = `${shownUrl(url)} ${version} ${bytes}${query}`
  if (Buffer.byteLength(identity) <= 1024) return identity
  return `sha256 ${createHash('sha256').update(identity).digest('hex')}`
}

function versionOf(headers: Answer['headers']): string {
  return headers.etag ?? headers['last-modified'] ?? ''
}

/** The size of the image, from the answer to a request for its first bytes. Without parts each one would bring all of it. */
function sizeIn({ statusCode, headers }: Answer, first: number): number {
  if (statusCode !== 206) {
    const hint = 'serve the image with a server that has, such as nginx, or download it'
    throw new Lasting('the server has no range requests', 'EIO', hint)
  }
  const [, last, total] = /^bytes 0-(\d+)\/(\d+)$/.exec(headers['content-range'] ?? '') ?? []
  const bytes = Number(total ?? Number.NaN)
  if (!Number.isSafeInteger(bytes) || bytes === 0)
    throw new Lasting('the server does not say how large the image is')
  if (Number(last) !== Math.min(first, bytes) - 1)
    throw new Lasting(`the server sends another part than bytes=0-${first - 1}`)
  return bytes
}

/** A failure that would be the same another time. */
class Lasting extends Error {
  constructor(
    message: string,
    readonly code: 'EIO' | 'ESTALE' = 'EIO',
    readonly hint?: string,
  ) {
    super(message)
  }
}

class Image {
  /** Its first bytes, until the first fetch. */
  #first: Uint8Array | undefined

  constructor(
    readonly server: WebServer,
    readonly bytes: number,
    readonly version: string,
    first: Uint8Array,
  ) {
    this.#first = first
  }

  async fetch({ offset, length, signal }: FetchRange): Promise<Uint8Array> {
    const first = this.#first
    this.#first = undefined
    const end = Math.min(offset + length, this.bytes)
    const data = offset === 0 && end === first?.length ? first : await this.#ask(offset, end, signal)
    if (data.length === length) return data
    const whole = new Uint8Array(length) // The image ends within a sector.
    whole.set(data)
    return whole
  }

  async #ask(offset: number, end: number, signal: AbortSignal): Promise<Uint8Array> {
    const range = `bytes=${offset}-${end - 1}`
    // A weak one says nothing of single bytes: its header is compared only.
    const condition = this.version.startsWith('W/') ? undefined : this.version || undefined
    const check = ({ statusCode, headers }: Answer): number => {
      if (statusCode !== 200 && statusCode !== 206) throw new Lasting(`the server answers ${statusCode}`)
      const [part, total] = (headers['content-range'] ?? '').split('/')
      if (versionOf(headers) !== this.version || (total !== undefined && Number(total) !== this.bytes)) {
        throw new Lasting('the image has changed since the disk was created', 'ESTALE')
      }
      if (statusCode === 200) throw new Lasting('the server does not send parts any more')
      if (part !== `bytes ${offset}-${end - 1}`)
        throw new Lasting(`the server sends another part than ${range}`)
      return end - offset
    }
    const { data } = await this.server.ask(range, condition, signal, check)
    return data
  }
}

/** Makes range requests. */
class WebServer {
  readonly #url: URL
  readonly #headers: RequestHeaders
  /** How long the server may send nothing in one attempt, in milliseconds. */
  readonly #silence: number
  readonly #get: Get

  constructor(url: string, silence: number, get: Get) {
    this.#url = new URL(url)
    this.#silence = silence
    this.#get = get
    const headers = { accept: '*/*', 'accept-encoding': 'identity', 'user-agent': 'ublk-ts' }
    const { username, password } = this.#url
    const plain = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`
    const authorization = `Basic ${Buffer.from(plain).toString('base64')}`
    this.#headers = plain === ':' ? headers : { ...headers, authorization }
    this.#url.username = ''
    this.#url.password = ''
  }

  /** Asks for a part until the server answers, within limits. `check`: returns the length of the answer's body. */
  async ask(
    range: string,
    condition: string | undefined,
    signal: AbortSignal,
    check: (answer: Answer) => number,
  ): Promise<{ headers: Answer['headers']; data: Uint8Array }> {
    const headers = {
      ...this.#headers,
      range,
      ...(condition === undefined ? {} : { 'if-range': condition }),
    }
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#once(headers, signal, check)
      } catch (error) {
        signal.throwIfAborted()
        if (error instanceof Lasting) throw error
        if (attempt === ATTEMPTS)
          throw Object.assign(new Error(inWords(error)), { code: 'EIO', cause: error })
        const wanted = error instanceof Busy ? error.pause : 0
        const pause = Math.max(PAUSE * 2 ** (attempt - 1) * (0.75 + Math.random() / 2), wanted)
        await sleep(Math.min(pause, LONGEST_PAUSE), undefined, { signal })
      }
    }
  }

  async #once(
    headers: RequestHeaders,
    signal: AbortSignal,
    check: (answer: Answer) => number,
  ): Promise<{ headers: Answer['headers']; data: Uint8Array }> {
    const silent = new AbortController()
    const timer = setTimeout(() => {
      silent.abort(new Error(`the server sent nothing for ${this.#silence} ms`))
    }, this.#silence)
    let answer: Answer | undefined
    try {
      answer = await this.#follow(headers, AbortSignal.any([signal, silent.signal]))
      const { statusCode, statusMessage = '' } = answer
      const status = `${statusCode} ${statusMessage}`.trimEnd()
      if (TEMPORARY.has(statusCode)) throw new Busy(status, answer.headers['retry-after'])
      if (statusCode === undefined || statusCode >= 400) throw new Lasting(`the server answers ${status}`)
      const length = check(answer)
      // With a content coding, ranges count the bytes of the compressed image.
      if ((answer.headers['content-encoding'] ?? 'identity') !== 'identity')
        throw new Lasting('the server sends the image compressed')
      const data = await bodyOf(answer, length, () => timer.refresh())
      return { headers: answer.headers, data }
    } catch (error) {
      answer?.destroy()
      throw silent.signal.aborted ? silent.signal.reason : error
    } finally {
      clearTimeout(timer)
    }
  }

  /** The answer at the end of all redirects. Each one is checked, and user and password stay with their server. */
  async #follow(headers: RequestHeaders, signal: AbortSignal): Promise<Answer> {
    let [url, sent] = [this.#url, headers]
    for (let redirects = 0; redirects <= MOST_REDIRECTS; redirects++) {
      const answer = await this.#get(url, sent, signal)
      const { location } = answer.headers
      if (location === undefined || !REDIRECTS.has(answer.statusCode)) return answer
      await skip(answer)
      const next = redirected(url, location)
      if (next.origin !== url.origin) {
        const { authorization: _, ...rest } = sent
        sent = rest
      }
      url = next
    }
    throw new Lasting(`the server redirects more than ${MOST_REDIRECTS} times`)
  }
}

/** Reads a body that is not needed to its end, or gives it up with its connection if it is long. */
async function skip(answer: Answer): Promise<void> {
  let length = 0
  for await (const part of answer) {
    length += part.length
    if (length > MOST_OF_REDIRECT) break
  }
}

/** Where a redirect leads to. */
function redirected(from: URL, location: string): URL {
  if (!URL.canParse(location, from.href)) throw new Lasting('the server redirects to no address')
  const to = new URL(location, from)
  if (to.protocol !== 'http:' && to.protocol !== 'https:')
    throw new Lasting(`the server redirects to ${to.protocol}, not to http: or https:`)
  if (from.protocol === 'https:' && to.protocol === 'http:')
    throw new Lasting('the server redirects from https to http')
  to.username = ''
  to.password = ''
  return to
}

/** A body of exactly that length. No more than that is kept, whatever the server sends. */
async function bodyOf(answer: Answer, length: number, more: () => void): Promise<Uint8Array> {
  const data = new Uint8Array(length)
  let at = 0
  for await (const part of answer) {
    more()
    if (at + part.length > length)
      throw new Lasting(`the server sends more than the ${length} bytes asked for`)
    data.set(part, at)
    at += part.length
  }
  if (at < length) throw new Error(`${at} bytes came, not ${length}`)
  return data
}

/** The server may answer later. */
class Busy extends Error {
  /** How long it asks to wait, in milliseconds. */
  readonly pause: number

  constructor(status: string, after: string | undefined) {
    super(`the server answers ${status}`)
    const seconds = Number(after ?? 0)
    this.pause = Number.isFinite(seconds) ? seconds * 1000 : 0
  }
}

/** Why a request failed. */
function inWords(error: unknown): string {
  const { message, code } = error as NodeJS.ErrnoException
  if (code === 'ECONNRESET') return 'the server closed the connection'
  return message || code || String(error) // If several addresses refuse, there is no message.
}
