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
  /** Cookies do not tell ports apart: each server has a name of its own. */
  readonly #cookie: string

  constructor(token: string = randomBytes(32).toString('base64url')) {
    this.token = token
    this.#digest = digest(token)
    this.#cookie = `ublk-ts-${digest(`name of ${token}`).toString('hex').slice(0, 12)}`
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

  /** Whether the query has the token. */
  admitsQuery({ url }: Asked): boolean {
    return this.#is(new URL(url, 'http://localhost').searchParams.get('token') ?? '')
  }

  /** Whether the cookie has it. */
  admitsCookie({ headers }: Asked): boolean {
    const cookies = (one(headers['cookie']) ?? '').split(';').map(each => each.trim())
    const [, value = ''] = cookies.map(each => each.split('=')).find(([name]) => name === this.#cookie) ?? []
    return this.#is(value)
  }

  /** The header that has a browser keep the token, for requests of this page alone. */
  get cookie(): string {
    return `${this.#cookie}=${this.token}; Path=/; HttpOnly; SameSite=Strict`
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
