/** The protocol of a server's control socket: JSON-RPC 2.0, each message a line. See docs/control-socket.md. */
import type { Socket } from 'node:net'
import { StringDecoder } from 'node:string_decoder'
import type { Json } from '../json.js'
import type { TraceRecord } from '../trace.js'

/** A request to a server; a notification if it has no id. */
export interface Request {
  readonly jsonrpc: '2.0'
  /** Returned with the answer. */
  readonly id?: number | string | null
  readonly method: string
  readonly params?: { readonly [key: string]: unknown }
}

/** A server's answer to `info`. */
export interface ServerInfo {
  /** The number of the device that it serves. */
  readonly id: number
  /** Distinguishes that device from others that had its number. */
  readonly identity: string
  /** Its process. */
  readonly pid: number
  /** The version of its package. */
  readonly version: string
}

/** A part of the answer to `trace`. */
export interface TracePart {
  readonly records: readonly TraceRecord[]
  /** How many further records were lost. */
  readonly dropped: number
}

/** A server's answer to `release`: systemd's socket, so that another process can be the service. */
export interface Supervision {
  readonly socket: string | undefined
  readonly watchdog: string | undefined
}

/** Sends one line. */
export function send(socket: Socket, message: object): void {
  sendLine(socket, JSON.stringify(message))
}

/** Sends one that is JSON already. */
export function sendLine(socket: Socket, json: string): void {
  socket.write(`${json}\n`)
}

/**
 * Calls `take` with each line's JSON. What is no JSON, or is longer than `longest` characters, goes to `refuse`, and
 * nothing is read after that.
 */
export function receive(
  socket: Socket,
  longest: number,
  take: (message: Json) => void,
  refuse: (why: string) => void,
): void {
  const decoder = new StringDecoder('utf8')
  let rest = ''
  const read = (line: string): string | undefined => {
    try {
      if (line.length <= longest) take(JSON.parse(line))
      else return 'the line is too long'
    } catch {
      return 'the line is not JSON'
    }
    return undefined
  }
  const onData = (chunk: Buffer): void => {
    const lines = (rest + decoder.write(chunk)).split('\n')
    rest = lines.pop() ?? ''
    let why: string | undefined
    for (const line of lines) why ??= read(line)
    if (rest.length > longest) why ??= 'the line is too long'
    if (why === undefined) return
    socket.off('data', onData)
    refuse(why)
  }
  socket.on('data', onData)
}
