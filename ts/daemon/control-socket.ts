import { chmodSync, mkdirSync, renameSync, rmSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { join } from 'node:path'
import * as native from '#binding'
import { invalid, UblkError, wrap } from '../errors.js'
import { type Dialect, earlier, type Id, jsonRpc, RpcCode } from '../remote/control-dialects.js'
import { receive, send, sendLine } from '../remote/control-protocol.js'
import { inodeOf } from '../remote/identity.js'

/** A client of a method, while the method runs. */
export interface Caller {
  /** Sends a part of the answer. Returns whether it did: a client that reads too slowly misses parts. */
  tell(part: unknown): boolean
  /** Aborted when the connection is gone. */
  readonly gone: AbortSignal
}

/** What a method gets, by name. */
type Params = { readonly [name: string]: unknown }

/** The methods, by name. If one throws, the error is its answer. */
export type Methods = {
  readonly [name: string]: (params: Params, caller: Caller) => unknown
}

/** The maximum length of a request, in characters. */
const LONGEST = 2 ** 16

/** How many bytes may wait for a slow client. */
const MOST_UNREAD = 2 ** 20

/** How many requests of a connection may be under way. No more are read then. */
const MOST_OWED = 256

/** The control socket of a server. */
export class ControlSocket {
  /** Distinguishes it from other sockets at its path. */
  readonly inode: string
  readonly #server: Server
  readonly #path: string
  readonly #connections = new Set<Connection>()

  private constructor(server: Server, path: string, methods: Methods) {
    this.#server = server
    this.#path = path
    this.inode = inodeOf(path) ?? ''
    server.on('connection', socket => {
      if (!isOurs(socket)) return refuse(socket, stranger())
      const connection = new Connection(socket, methods)
      this.#connections.add(connection)
      socket.once('close', () => this.#connections.delete(connection))
    })
    server.on('error', () => {}) // Such as too many open files: the next caller may have more luck.
    server.unref() // The device itself keeps Node running.
  }

  /** Listens at a path, for this user only, and replaces another socket there. */
  static async listen(path: string, methods: Methods): Promise<ControlSocket> {
    // Not bound at the path itself: closing would remove the path, even if it is another server's socket by then. And
    // in a private directory, since until chmod() a socket has the mode that the umask leaves.
    const dir = `${path}.${process.pid}`
    rmSync(dir, { force: true, recursive: true })
    const server = createServer()
    try {
      mkdirSync(dir, { mode: 0o700 })
      chmodSync(dir, 0o700) // independent of the umask
      const first = join(dir, 's') // a short name: a socket's address has little room
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject).listen(first, resolve)
      })
      chmodSync(first, 0o600)
      renameSync(first, path)
    } catch (error) {
      server.close()
      throw error
    } finally {
      rmSync(dir, { force: true, recursive: true })
    }
    return new ControlSocket(server, path, methods)
  }

  /** Accepts no further requests. Pending ones are answered. */
  close(): void {
    this.#server.close()
    if (inodeOf(this.#path) === this.inode) rmSync(this.#path, { force: true })
    for (const connection of this.#connections) connection.close()
  }
}

/** Whether the peer's user is this user or root: the mode of the socket's path alone does not ensure that. */
function isOurs(socket: Socket): boolean {
  // Node does not expose the descriptor publicly, and has no function that returns the peer's user.
  const { fd = -1 } = (socket as { _handle?: { fd?: number } })._handle ?? {}
  const uid = native.peerUid(fd)
  return uid !== null && (uid === 0 || uid === process.geteuid?.())
}

function stranger(): UblkError {
  const hint = 'ask as the user who runs the server, or as root'
  return new UblkError('no-permission', 'the server answers its own user and root', { hint })
}

/** How long a refused client may take to read the error, in milliseconds. */
const PARTING = 1000

/** Sends the error, and reads nothing more. */
function refuse(socket: Socket, error: UblkError, code?: number): void {
  socket.unref()
  socket.on('error', () => {}) // 'close' follows.
  send(socket, jsonRpc.error(null, error, code))
  // If it were closed with unread data, the client would get ECONNRESET instead of the answer.
  socket.resume().end()
  setTimeout(() => socket.destroy(), PARTING).unref()
}

/** A client. */
class Connection {
  readonly #socket: Socket
  readonly #methods: Methods
  readonly #gone = new AbortController()
  /** Requests that are not answered yet. */
  #owed = 0
  /** Requests that are not begun yet: at most those of one read. */
  readonly #waiting: unknown[] = []
  #closing = false

  constructor(socket: Socket, methods: Methods) {
    this.#socket = socket
    this.#methods = methods
    socket.unref()
    socket.on('error', () => {}) // 'close' follows.
    socket.once('close', () => this.#gone.abort())
    socket.on('drain', () => this.#next())
    const take = (message: unknown): void => {
      this.#waiting.push(message)
      this.#next()
    }
    receive(socket, LONGEST, take, why => refuse(socket, invalid(why), RpcCode.parse))
  }

  close(): void {
    this.#closing = true
    this.#waiting.length = 0
    this.#gone.abort()
    if (this.#owed === 0) this.#socket.destroySoon()
  }

  async #take(message: unknown): Promise<void> {
    const several = Array.isArray(message) && message.length > 0
    const requests = several ? message.length : 1
    this.#owed += requests
    const answers = await Promise.all((several ? message : [message]).map(each => this.#answer(each)))
    const all = answers.filter(answer => answer !== undefined)
    if (all.length > 0) sendLine(this.#socket, several ? `[${all}]` : `${all}`)
    this.#owed -= requests
    if (this.#closing) this.close()
    else this.#next()
  }

  /** Begins with what waits. What is kept for a client that sends and does not read is bounded. */
  #next(): void {
    const socket = this.#socket
    const isFull = (): boolean => socket.writableLength >= MOST_UNREAD || this.#owed >= MOST_OWED
    while (this.#waiting.length > 0 && !isFull()) void this.#take(this.#waiting.shift())
    if (isFull()) socket.pause()
    else if (socket.isPaused()) socket.resume()
  }

  /** The answer to a request, in JSON; undefined to a notification. */
  async #answer(message: unknown): Promise<string | undefined> {
    const request = readRequest(message)
    if ('wrong' in request)
      return JSON.stringify(jsonRpc.error(request.id, invalid(request.wrong), RpcCode.request))
    const { id, method, params, dialect } = request
    const socket = this.#socket
    const tell = (part: unknown): boolean => {
      if (socket.writableLength >= MOST_UNREAD) return false
      if (id !== undefined) send(socket, dialect.part(id, part))
      return true
    }
    try {
      const result = (await this.#call(method, params, { tell, gone: this.#gone.signal })) ?? null
      return id === undefined ? undefined : JSON.stringify(dialect.result(id, result))
    } catch (error) {
      const { code, cause } = error instanceof Failure ? error : { code: undefined, cause: wrap(error) }
      return id === undefined ? undefined : JSON.stringify(dialect.error(id, cause, code))
    }
  }

  async #call(method: string, params: unknown, caller: Caller): Promise<unknown> {
    const known = Object.hasOwn(this.#methods, method) ? this.#methods[method] : undefined
    if (!known) {
      const unknown = invalid(`the server knows no '${method}'`, 'it may be of another version')
      throw new Failure(unknown, RpcCode.method)
    }
    if (typeof params !== 'object' || params === null || Array.isArray(params)) {
      throw invalid('the params of a request are an object: they have names')
    }
    return await known(params as Params, caller)
  }
}

/** An error with a code of its own. */
class Failure {
  constructor(
    readonly cause: UblkError,
    readonly code: number,
  ) {}
}

/** A request, and how it is to be answered; or what is wrong with it. */
type ReadRequest =
  | {
      readonly id: Id | undefined
      readonly method: string
      readonly params: unknown
      readonly dialect: Dialect
    }
  | { readonly id: Id; readonly wrong: string }

function readRequest(message: unknown): ReadRequest {
  if (typeof message !== 'object' || message === null || Array.isArray(message)) {
    return { id: null, wrong: 'a request is an object' }
  }
  const { jsonrpc, id, method, params = {} } = message as { readonly [field: string]: unknown }
  const known = typeof id === 'string' || Number.isFinite(id) ? (id as Id) : null
  if (typeof method !== 'string') return { id: known, wrong: 'a request has a method' }
  if (jsonrpc !== undefined && jsonrpc !== '2.0') return { id: known, wrong: "jsonrpc is '2.0'" }
  if (id !== undefined && id !== null && known === null)
    return { id: null, wrong: 'an id is a number or text' }
  // Clients of earlier versions number their requests, and do not know of JSON-RPC.
  const dialect = jsonrpc === undefined && Number.isInteger(id) ? earlier : jsonRpc
  if (jsonrpc === undefined && dialect === jsonRpc)
    return { id: known, wrong: "a request has jsonrpc: '2.0'" }
  return { id: id === undefined ? undefined : known, method, params, dialect }
}
