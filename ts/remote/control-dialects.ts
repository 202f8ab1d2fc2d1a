/**
 * What a server sends on its control socket. It speaks JSON-RPC 2.0, and to clients of earlier versions, whose requests do not
 * say `jsonrpc`, as those did: a disk may be upgraded from or to such a version.
 */
import { hintOf, UblkError, type UblkErrorKind } from '../errors.js'

/** The id of a request; null if that is not known. */
export type Id = number | string | null

/** Makes messages for a client. */
export interface Dialect {
  result(id: Id, result: unknown): object
  /** A part of the answer, which is sent before it. */
  part(id: Id, part: unknown): object
  /** @param code - Of JSON-RPC, if the kind of the error does not say which. */
  error(id: Id, error: UblkError, code?: number): object
}

/** Codes that JSON-RPC itself has. */
export const RpcCode = { parse: -32700, request: -32600, method: -32601, params: -32602 } as const

/** The code of each kind of error. They are public: see docs/control-socket.md. */
export const CODES: Readonly<Record<UblkErrorKind, number>> = {
  system: -32000,
  'no-driver': -32001,
  'no-permission': -32002,
  'no-io-uring': -32003,
  unsupported: -32004,
  limit: -32005,
  exists: -32006,
  'not-found': -32007,
  busy: -32008,
  backend: -32009,
  timeout: -32010,
  cancelled: -32011,
  closed: -32012,
  invalid: RpcCode.params,
}

/** An error in JSON-RPC. */
interface RpcError {
  readonly code: number
  readonly message: string
  readonly data?: RpcErrorData | undefined
}

/** All that is known of it. */
interface RpcErrorData {
  readonly kind?: UblkErrorKind
  /** In the words of the API. Earlier servers sent the template. */
  readonly hint?: string | undefined
  /** The hint with `{…}` where each surface has its own words; missing if it has none. */
  readonly template?: string | undefined
  readonly device?: number | undefined
  readonly code?: string | undefined
  readonly errno?: number | undefined
  readonly command?: string | undefined
}

/** An error as earlier versions sent it. */
interface PlainError {
  readonly kind: UblkErrorKind
  readonly message: string
  readonly hint?: string | undefined
  readonly device?: number | undefined
}

/** JSON-RPC 2.0. */
export const jsonRpc: Dialect = {
  result: (id, result) => ({ jsonrpc: '2.0', id, result }),
  part: (id, part) => ({ jsonrpc: '2.0', method: 'part', params: { id, part } }),
  error: (id, error, code = CODES[error.kind]) => {
    const { message } = error
    const rpc: RpcError = { code, message, data: dataOf(error) }
    return { jsonrpc: '2.0', id, error: rpc }
  },
}

function dataOf(error: UblkError): RpcErrorData {
  const { kind, hint, device, code, errno, command } = error
  const template = hintOf(error)
  return { kind, hint, ...(template === hint ? {} : { template }), device, code, errno, command }
}

/** What servers sent before they spoke JSON-RPC. */
export const earlier: Dialect = {
  result: (id, result) => ({ id, result }),
  part: (id, part) => ({ id, part }),
  error: (id, error) => {
    const { kind, message, device } = error
    return { id, error: { kind, message, hint: hintOf(error), device } }
  },
}

/** What a client gets, from servers of any version. */
export type Reply =
  | { readonly id: number; readonly result: unknown }
  | { readonly id: number; readonly part: unknown }
  | { readonly id: number | null; readonly error: UblkError }

/** Reads a message of a server; undefined if it is none that a client of this version knows. */
export function readReply(message: unknown): Reply | undefined {
  const { id, method, params, ...said } = (message ?? {}) as { [field: string]: unknown }
  if (method === 'part') {
    const { id, part } = (params ?? {}) as { id?: unknown; part?: unknown }
    return typeof id === 'number' ? { id, part } : undefined
  }
  const known = typeof id === 'number' ? id : null
  if (said['error'] !== undefined)
    return { id: known, error: errorOf(said['error'] as RpcError | PlainError) }
  if (known === null) return undefined
  return 'part' in said ? { id: known, part: said['part'] } : { id: known, result: said['result'] }
}

function errorOf(error: RpcError | PlainError): UblkError {
  const { message } = error
  if ('kind' in error) return new UblkError(error.kind, message, { hint: error.hint, device: error.device })
  const { kind = 'system', hint, template = hint, ...more } = error.data ?? {}
  const { device, code, errno, command } = more
  return new UblkError(kind, message, { hint: template, device, code, errno, command })
}
