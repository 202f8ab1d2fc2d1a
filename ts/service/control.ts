import { chmodSync, renameSync, rmSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { invalid, wrap } from '../errors.js'
import { type Request, receive, send, toPlain } from './lines.js'
import { inodeOf } from './system.js'

/** Who asks something, for as long as it does. */
export interface Caller {
  /** Sends a part of the answer. Whether it did: who reads too slowly misses some. */
  tell(part: unknown): boolean
  /** Aborted when the connection is gone. */
  readonly gone: AbortSignal
}

/** What can be asked, by name. What a method throws is its answer. */
export type Methods = {
  readonly [name: string]: (params: Request['params'], caller: Caller) => unknown
}

/** Of a request, in characters. */
const LONGEST = 2 ** 16

/** How much may wait to be read by somebody slow, in bytes. */
const MOST_UNREAD = 2 ** 20

/** A socket at which a server can be asked. */
export class ControlSocket {
  /** Tells it from others at its path. */
  readonly inode: string
  readonly #server: Server
  readonly #path: string
  readonly #connections = new Set<Connection>()

  private constructor(server: Server, path: string, methods: Methods) {
    this.#server = server
    this.#path = path
    this.inode = inodeOf(path) ?? ''
    server.on('connection', socket => {
      const connection = new Connection(socket, methods)
      this.#connections.add(connection)
      socket.once('close', () => this.#connections.delete(connection))
    })
    server.on('error', () => {}) // Such as too many open files: the next caller may have more luck.
    server.unref() // The device itself keeps Node running.
  }

  /** Listens at a path, for this user alone, in place of whoever did. */
  static async listen(path: string, methods: Methods): Promise<ControlSocket> {
    // Not at the path itself: closing would remove what is there then, be it another server's.
    const first = `${path}.${process.pid}`
    rmSync(first, { force: true })
    const server = createServer()
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject).listen(first, resolve)
    })
    try {
      chmodSync(first, 0o600)
      renameSync(first, path)
    } catch (error) {
      server.close()
      throw error
    }
    return new ControlSocket(server, path, methods)
  }

  /** Nobody can ask any more. Who has asked is answered. */
  close(): void {
    this.#server.close()
    if (inodeOf(this.#path) === this.inode) rmSync(this.#path, { force: true })
    for (const connection of this.#connections) connection.close()
  }
}

/** One who asks. */
class Connection {
  readonly #socket: Socket
  readonly #methods: Methods
  readonly #gone = new AbortController()
  /** Requests that are not answered yet. */
  #owed = 0
  #closing = false

  constructor(socket: Socket, methods: Methods) {
    this.#socket = socket
    this.#methods = methods
    socket.unref()
    socket.on('error', () => {}) // It is closed next.
    socket.once('close', () => this.#gone.abort())
    const refuse = (why: string): void => {
      send(socket, { id: null, error: toPlain(invalid(why)) })
      socket.destroySoon()
    }
    const take = (message: unknown): void => {
      if (isRequest(message)) void this.#answer(message)
      else refuse('a request has an id, a method and params')
    }
    receive(socket, LONGEST, take, refuse)
  }

  close(): void {
    this.#closing = true
    this.#gone.abort()
    if (this.#owed === 0) this.#socket.destroySoon()
  }

  async #answer({ id, method, params }: Request): Promise<void> {
    const socket = this.#socket
    const tell = (part: unknown): boolean => {
      if (socket.writableLength >= MOST_UNREAD) return false
      send(socket, { id, part })
      return true
    }
    this.#owed++
    try {
      const known = Object.hasOwn(this.#methods, method) ? this.#methods[method] : undefined
      if (!known) throw invalid(`the server knows no '${method}'`, 'it may be of another version')
      send(socket, { id, result: (await known(params, { tell, gone: this.#gone.signal })) ?? null })
    } catch (error) {
      send(socket, { id, error: toPlain(wrap(error)) })
    }
    this.#owed--
    if (this.#closing) this.close()
  }
}

function isRequest(message: unknown): message is Request {
  const { id, method, params } = (message ?? {}) as Partial<Record<keyof Request, unknown>>
  return Number.isInteger(id) && typeof method === 'string' && typeof params === 'object' && params !== null
}
