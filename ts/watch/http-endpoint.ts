import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { UblkError, wrap } from '../errors.js'

/** Where to listen. */
export interface Address {
  readonly host: string
  readonly port: number
}

/** The response to a scraper. */
export interface Page {
  readonly type: string
  readonly text: string
}

/** How long a request may take to come in, in milliseconds, and how many may come at a time. */
const PATIENCE = 10_000
const MOST_CONNECTIONS = 64

/** Serves one page at `/metrics`, generated for each request. Simultaneous requests share one page. */
export class Endpoint {
  readonly #server: Server
  #making: Promise<Page> | undefined

  private constructor(make: () => Promise<Page>) {
    const page = (): Promise<Page> => {
      this.#making ??= make().finally(() => {
        this.#making = undefined
      })
      return this.#making
    }
    this.#server = createServer(
      { requestTimeout: PATIENCE, headersTimeout: PATIENCE, keepAliveTimeout: PATIENCE },
      async (request, response) => {
        const answer = (status: number, type: string, text: string): void => {
          response.writeHead(status, { 'content-type': type, 'content-length': Buffer.byteLength(text) })
          response.end(request.method === 'HEAD' ? undefined : text)
        }
        const refuse = (status: number, why: string): void =>
          answer(status, 'text/plain; charset=utf-8', `${why}\n`)
        request.resume() // Its body is ignored.
        if (request.method !== 'GET' && request.method !== 'HEAD') {
          response.setHeader('allow', 'GET, HEAD')
          return refuse(405, 'only GET and HEAD are possible')
        }
        if (request.url?.split('?', 1)[0] !== '/metrics') return refuse(404, 'see /metrics')
        try {
          const { type, text } = await page()
          answer(200, type, text)
        } catch (error) {
          refuse(500, wrap(error).message)
        }
      },
    )
    this.#server.maxConnections = MOST_CONNECTIONS
  }

  /**
   * Listens.
   *
   * @throws UblkError of kind `system` if it cannot.
   */
  static async listen(address: Address, make: () => Promise<Page>): Promise<Endpoint> {
    const endpoint = new Endpoint(make)
    await new Promise<void>((resolve, reject) => {
      endpoint.#server.once('error', cause => {
        const where = `${address.host}:${address.port}`
        reject(new UblkError('system', `cannot listen at ${where}: ${cause.message}`, { cause }))
      })
      endpoint.#server.listen(address.port, address.host, resolve)
    })
    endpoint.#server.on('error', () => {}) // Such as too many open files: the next one may have more luck.
    return endpoint
  }

  /** Its URL. */
  get url(): string {
    const { address, family, port } = this.#server.address() as AddressInfo
    return `http://${family === 'IPv6' ? `[${address}]` : address}:${port}/metrics`
  }

  /** Closes it and all its connections. */
  close(): void {
    this.#server.close()
    this.#server.closeAllConnections()
  }
}
