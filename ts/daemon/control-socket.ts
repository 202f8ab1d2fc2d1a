import { chmodSync, mkdirSync, renameSync, rmSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { join } from 'node:path'
import * as native from '#binding'
import { invalid, UblkError, wrap } from '../errors.js'
import { type Request, receive, send, toPlain } from '../remote/control-protocol.js'
import { inodeOf } from '../remote/identity.js'

/** A client of a method, while the method runs. */
export interface Caller {
  /** Sends a part of the answer. Returns whether it did: a client that reads too slowly misses parts. */
  tell(part: unknown): boolean
  /** Aborted when the connection is gone. */
  readonly gone: AbortSignal
}

/** The methods, by name. If one throws, the error is its answer. */
export type Methods = {
  readonly [name: string]: (params: Request['params'], caller: Caller) => unknown
}

/** The maximum length of a request, in characters. */
const LONGEST = 2 ** 16

/** How many bytes may wait for a slow client. */
const MOST_UNREAD = 2 ** 20

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
function refuse(socket: Socket, error: UblkError): void {
  socket.unref()
  socket.on('error', () => {}) // 'close' follows.
  send(socket, { id: null, error: toPlain(error) })
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
  #closing = false

  constructor(socket: Socket, methods: Methods) {
    this.#socket = socket
    this.#methods = methods
    socket.unref()
    socket.on('error', () => {}) // 'close' follows.
    socket.once('close', () => this.#gone.abort())
    const take = (message: unknown): void => {
      if (isRequest(message)) void this.#answer(message)
      else refuse(socket, invalid('a request has an id, a method and params'))
    }
    receive(socket, LONGEST, take, why => refuse(socket, invalid(why)))
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
