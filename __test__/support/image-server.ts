/**
 * A web server that has one image, in a process of its own. Its content is made from the position, so that it needs no
 * space: each sector of 512 bytes holds its own number.
 */
import { type ChildProcess, fork } from 'node:child_process'
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { fileURLToPath } from 'node:url'

/** What the server does. It can be changed while that runs. */
export interface Behaviour {
  size: number
  etag: string
  /** Answers this number of requests with 503. */
  busy: number
  /** Answers each request with this status instead. */
  status: number
  /** Sends the whole image whatever is asked. */
  whole: boolean
  /** Never answers. */
  silent: boolean
  /** Sends this many bytes too few, in this number of answers. */
  short: number
  /** Says that its answers have this content coding. */
  coding: string
  /** Sends another part than the one that was asked for, this many bytes further on, and says so. */
  shifted: number
  /** Takes 0 as the end of a part for no end. */
  zeroIsNoEnd: boolean
  /** Goes on sending after the part, for ever. */
  endless: boolean
  /** Sends half of the part, and then nothing. */
  stalls: boolean
  /** After how many milliseconds it answers. */
  delay: number
}

/** What it has done. */
export interface Done {
  requests: number
  bytes: number
  /** The most requests at a time. */
  atOnce: number
}

const USUAL: Behaviour = {
  size: 2 ** 26,
  etag: '"one"',
  busy: 0,
  status: 0,
  whole: false,
  silent: false,
  short: 0,
  coding: '',
  shifted: 0,
  zeroIsNoEnd: false,
  endless: false,
  stalls: false,
  delay: 1,
}
const SECTOR = 512

/** The bytes of the image from `offset` on. */
export function imageBytes(offset: number, length: number): Buffer {
  const data = Buffer.alloc(length)
  for (let at = 0; at + 8 <= length; at += SECTOR) {
    data.writeDoubleLE((offset + at) / SECTOR + 1, at)
    data.fill((offset + at) / SECTOR, at + 8, Math.min(at + SECTOR, length))
  }
  return data
}

/** The server, from another process. */
export class ImageServer implements AsyncDisposable {
  private constructor(
    readonly url: string,
    readonly process: ChildProcess,
  ) {}

  static async start(behaviour: Partial<Behaviour> = {}): Promise<ImageServer> {
    const child = fork(fileURLToPath(import.meta.url), ['serve'], { execArgv: process.execArgv })
    const port = await ask<number>(child, { set: behaviour })
    return new ImageServer(`http://127.0.0.1:${port}/image`, child)
  }

  async set(behaviour: Partial<Behaviour>): Promise<void> {
    await ask(this.process, { set: behaviour })
  }

  /** What it has done since this was last asked. */
  async done(): Promise<Done> {
    return await ask<Done>(this.process, { done: true })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const gone = new Promise(resolve => this.process.once('exit', resolve))
    this.process.kill('SIGKILL')
    await gone
  }
}

async function ask<T>(child: ChildProcess, question: object): Promise<T> {
  const answer = new Promise<T>((resolve, reject) => {
    child.once('message', message => resolve(message as T))
    child.once('exit', status => reject(new Error(`the image server has ended: ${status}`)))
  })
  child.send(question)
  return await answer
}

function serve(): void {
  const behaviour = { ...USUAL }
  let done: Done = { requests: 0, bytes: 0, atOnce: 0 }
  let underWay = 0
  const server = createServer((request, response) => {
    done.requests++
    underWay++
    done.atOnce = Math.max(done.atOnce, underWay)
    response.once('close', () => underWay--)
    if (request.url === '/moved') return void response.writeHead(302, { location: '/image' }).end()
    if (behaviour.silent) return
    if (behaviour.busy > 0) {
      behaviour.busy--
      return void response.writeHead(503, { 'retry-after': '0' }).end('busy')
    }
    if (behaviour.status > 0) return void response.writeHead(behaviour.status).end('no')
    setTimeout(
      () => answer(request.headers.range ?? '', request.headers['if-range']?.toString(), response),
      behaviour.delay,
    )
  })
  const answer = (range: string, condition: string | undefined, response: ServerResponse): void => {
    const { size, etag, whole } = behaviour
    const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(range) ?? []
    const headers = {
      ...(etag === '' ? {} : { etag }),
      ...(behaviour.coding === '' ? {} : { 'content-encoding': behaviour.coding }),
    }
    if (from === undefined || whole || (condition !== undefined && condition !== etag)) {
      return void response.writeHead(200, { ...headers, 'content-length': size }).write('the whole image')
    }
    const { shifted, endless, stalls, zeroIsNoEnd } = behaviour
    const last = zeroIsNoEnd && to === '0' ? size : Number(to)
    const [start, end] = [Number(from) + shifted, Math.min(last + shifted, size - 1)]
    let data = imageBytes(start, end + 1 - start)
    const length = data.length
    if (behaviour.short > 0) {
      behaviour.short--
      data = data.subarray(0, length >> 1)
    }
    done.bytes += data.length
    response.writeHead(206, {
      ...headers,
      'content-range': `bytes ${start}-${end}/${size}`,
      ...(endless ? {} : { 'content-length': length }),
    })
    if (stalls) return void response.write(data.subarray(0, length >> 1))
    response.write(data)
    if (endless) {
      const timer = setInterval(() => response.write(data), 1)
      return void response.once('close', () => clearInterval(timer))
    }
    if (data.length < length) setTimeout(() => response.destroy(), 5)
    else response.end()
  }
  let port = 0
  process.on('message', ({ set, done: asked }: { set?: Partial<Behaviour>; done?: boolean }) => {
    if (asked) {
      process.send?.(done)
      done = { requests: 0, bytes: 0, atOnce: 0 }
      return
    }
    Object.assign(behaviour, set)
    if (port > 0) return void process.send?.(port)
    server.listen(0, '127.0.0.1', () => {
      port = (server.address() as AddressInfo).port
      process.send?.(port)
    })
  })
}

if (process.argv[2] === 'serve' && process.argv[1] === fileURLToPath(import.meta.url)) serve()
