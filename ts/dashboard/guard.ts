/** Who may ask the dashboard what: the rules alone, without a server. */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'

/** What a request says of itself. */
export interface Asked {
  readonly method: string
  /** Its path and query. */
  readonly url: string
  readonly headers: { readonly [name: string]: string | string[] | undefined }
}

/** Why something is refused. */
export interface Refusal {
  readonly status: number
  readonly why: string
}

/** A secret that only those know who were given the URL. */
export class Guard {
  readonly token: string
  readonly #digest: Buffer

  constructor(token: string = randomBytes(32).toString('base64url')) {
    this.token = token
    this.#digest = digest(token)
  }

  /** Refuses what a browser sends for a page of somebody else, whether or not it knows the token. */
  refusesOrigin({ headers, method }: Asked): Refusal | undefined {
    const host = one(headers['host'])
    // The name of another site may lead here (DNS rebinding). A tunnel may have another port.
    if (host === undefined || !LOOPBACK.test(host)) {
      return { status: 421, why: 'ask for it by 127.0.0.1 or localhost' }
    }
    const origin = one(headers['origin'])
    const same = origin === undefined ? method === 'GET' || method === 'HEAD' : origin === `http://${host}`
    const site = one(headers['sec-fetch-site'])
    const foreign = site === 'cross-site' || site === 'same-site'
    const navigates = one(headers['sec-fetch-mode']) === 'navigate' && (method === 'GET' || method === 'HEAD')
    if (!same || (foreign && !navigates)) return { status: 403, why: 'this is for its own page only' }
    return undefined
  }

  /**
   * Whether a request has the token, in its header or, where that cannot be set, its query. There is no cookie: browsers send
   * those to all ports of an address, and so to the servers of other users.
   */
  admits({ url, headers }: Asked, { byQuery }: { readonly byQuery: boolean }): boolean {
    const [, token] = /^Bearer ([\w-]+)$/i.exec(one(headers['authorization']) ?? '') ?? []
    if (token !== undefined) return this.#is(token)
    return byQuery && this.#is(new URL(url, 'http://localhost').searchParams.get('token') ?? '')
  }

  /** Compares digests: neither its length nor where it differs takes another time. */
  #is(candidate: string): boolean {
    return timingSafeEqual(digest(candidate), this.#digest)
  }
}

const LOOPBACK = /^(?:127\.0\.0\.1|localhost|\[::1\])(?::\d{1,5})?$/i

function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest()
}

function one(value: string | string[] | undefined): string | undefined {
  return typeof value === 'string' ? value : undefined
}
