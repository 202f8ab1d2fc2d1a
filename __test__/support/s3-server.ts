import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

/** How a server differs from a good one. */
export interface S3ServerOptions {
  /** Looks whether there is an object before it waits for the rest of a request, and never again: its conditional PUT is not atomic. */
  lies?: boolean
  /** Ignores the condition of a PUT. */
  ignoresConditions?: boolean
  /** What is answered instead: a status with a body, or `undefined` to go on. */
  instead?: (request: IncomingMessage, number: number) => { status: number; body: string } | undefined
}

interface Stored {
  readonly body: Buffer
  readonly changed: Date
}

/** As much of Amazon S3's protocol as disks need, for one bucket, `disks`. It checks no signature, and remembers all requests. */
export class S3Server implements AsyncDisposable {
  readonly objects = new Map<string, Stored>()
  /** Method, path with query, and header of each request. */
  readonly requests: { method: string; url: string; headers: IncomingMessage['headers'] }[] = []
  private readonly server: Server

  private constructor(private readonly options: S3ServerOptions) {
    this.server = createServer((request, response) => {
      this.answer(request, response).catch(error => response.destroy(error))
    })
  }

  static async start(options: S3ServerOptions = {}): Promise<S3Server> {
    const server = new S3Server(options)
    server.server.listen(0, '127.0.0.1')
    await once(server.server, 'listening')
    return server
  }

  get endpoint(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`
  }

  /** Variables with which a process uses it. */
  get environment(): Record<string, string> {
    return {
      AWS_ENDPOINT_URL: this.endpoint,
      AWS_ACCESS_KEY_ID: 'AKTEST000',
      AWS_SECRET_ACCESS_KEY: 'planted-secret-key',
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.server.closeAllConnections()
    this.server.close()
    await once(this.server, 'close')
  }

  private async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method = '', url = '', headers } = request
    this.requests.push({ method, url, headers })
    const { pathname, searchParams } = new URL(url, this.endpoint)
    const [, bucket, ...rest] = decodeURIComponent(pathname).split('/')
    const key = rest.join('/')
    const existed = this.objects.has(key)
    const body = await read(request)
    const instead = this.options.instead?.(request, this.requests.length)
    if (instead) return end(response, instead.status, instead.body)
    if (bucket !== 'disks')
      return end(response, 404, failure('NoSuchBucket', 'The specified bucket does not exist'))
    if (method === 'PUT') {
      const exists = this.options.lies ? existed : this.objects.has(key)
      if (exists && headers['if-none-match'] === '*' && !this.options.ignoresConditions) {
        return end(response, 412, failure('PreconditionFailed', 'There is one'))
      }
      // Others look meanwhile.
      if (this.options.lies) await sleep(5)
      this.objects.set(key, { body, changed: new Date() })
      return end(response, 200, '', { etag: '"x"' })
    }
    if (method === 'DELETE') {
      this.objects.delete(key)
      return end(response, 204, '')
    }
    if (key === '') return end(response, 200, this.list(searchParams))
    const stored = this.objects.get(key)
    if (!stored) return end(response, 404, failure('NoSuchKey', 'There is none'))
    part(request, response, stored)
  }

  private list(query: URLSearchParams): string {
    const after = query.get('continuation-token') ?? query.get('start-after') ?? ''
    const keys = [...this.objects.keys()].filter(
      key => key.startsWith(query.get('prefix') ?? '') && key > after,
    )
    const page = keys.sort().slice(0, 50)
    const last = page.at(-1)
    const contents = page.map(key => {
      const { body, changed } = this.objects.get(key) as Stored
      const fields = `<LastModified>${changed.toISOString()}</LastModified><ETag>"x"</ETag><Size>${body.length}</Size>`
      return `<Contents><Key>${key}</Key>${fields}</Contents>`
    })
    const more = page.length < keys.length
    const next = more ? `<NextContinuationToken>${last}</NextContinuationToken>` : ''
    return `<ListBucketResult><IsTruncated>${more}</IsTruncated>${next}${contents.join('')}</ListBucketResult>`
  }
}

async function read(request: IncomingMessage): Promise<Buffer> {
  const parts: Buffer[] = []
  for await (const part of request) parts.push(part as Buffer)
  return Buffer.concat(parts)
}

/** An error as S3 words it, with a field that repeats the request. */
export function failure(code: string, message: string, repeated = ''): string {
  return `<?xml version="1.0"?><Error><Code>${code}</Code><Message>${message}</Message><CanonicalRequest>${repeated}</CanonicalRequest></Error>`
}

function end(
  response: ServerResponse,
  status: number,
  body: string,
  headers: Record<string, string> = {},
): void {
  response.writeHead(status, { 'content-type': 'application/xml', ...headers }).end(body)
}

function part({ headers }: IncomingMessage, response: ServerResponse, { body, changed }: Stored): void {
  const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(headers.range ?? '') ?? []
  const common = { etag: '"x"', 'last-modified': changed.toUTCString() }
  if (first === undefined) {
    response.writeHead(200, { ...common, 'content-length': body.length }).end(body)
    return
  }
  const start = Number(first)
  const stop = Math.min(Number(last) + 1, body.length)
  if (start >= body.length) {
    end(response, 416, failure('InvalidRange', 'It is shorter'))
    return
  }
  const range = `bytes ${start}-${stop - 1}/${body.length}`
  response.writeHead(206, { ...common, 'content-length': stop - start, 'content-range': range })
  response.end(body.subarray(start, stop))
}
