import { resolve } from 'node:path'
import { checkOptions } from '../check.js'
import { invalid, wrongType } from '../errors.js'
import { parseSeconds } from '../option-values.js'
import { parseSize, type Size } from '../size.js'
import { nameOf } from '../user-values.js'
import type { Flags, Kind } from './kind.js'

/** An export of an NBD server; see {@link nbd}. */
export interface NbdBackend {
  readonly kind: 'nbd'
  /** Where the server is, and which of its exports is meant. */
  readonly uri: string
  /** For how long requests wait for a lost connection, in milliseconds. */
  readonly timeout: number | undefined
  /** How much of what is not flushed is kept, in bytes. */
  readonly journal: number | undefined
}

/** How {@link nbd} uses a server. */
export interface NbdOptions {
  /**
   * For how long requests wait for a new connection when one is lost, in milliseconds: 1000 to 2147483647. Then they fail with
   * EIO until there is one. A server that is silent for as long, while requests are in flight, counts as lost.
   *
   * @defaultValue 60000
   */
  timeout?: number
  /**
   * Bytes: keep a copy of at most this much of the writes that the server has answered and that were not flushed, and send
   * these again to a server that has lost them. When it is half full, the server is asked to flush. At least 1 MiB, and more than
   * `maxIo`. Without it, the next flush fails once if a connection is lost while there are such writes.
   *
   * @defaultValue none
   */
  journal?: Size
}

const NAMES = { timeout: true, journal: true } as const
const LIMITS = { timeout: [1000, 2 ** 31 - 1], journal: [2 ** 20, 2 ** 32] } as const
const SCHEME = /^nbd(s?)(\+unix)?:\/\//

/**
 * An export of an NBD server, such as nbdkit, qemu-nbd or nbd-server. Each queue has a connection of its own; more than one
 * needs a server that promises that all connections see the same data (`CAN_MULTI_CONN`), or a disk that is `readOnly`.
 *
 * Flush, forced unit access, discard and write-zeroes are the server's where it has them. If it has no flush, the disk has no
 * write cache: then what the server has answered counts as kept. The size is that of the export;
 * `resize` gives the disk the size that the export has by then, and no other.
 *
 * If a connection is lost, requests in flight are sent again on a new one, once the server is back. A server that comes back
 * smaller, or that can do other things, is not used. What it had answered and not made durable may be lost then:
 * with a `journal` it is sent again; without one the next flush fails once with EIO. The log of the disk's server says all of this,
 * and `connection()` of the disk how often it happened.
 *
 * @param uri - `nbd://host:port/export` or `nbd+unix:///export?socket=/path`; port 10809 and the export may be left out.
 * @param options - What happens when the connection is lost.
 * @throws UblkError of kind `invalid` if the URI or an option is wrong. `UblkDevice.create` connects, within ten seconds, and
 * rejects with kind `backend` if that fails, or `unsupported` if the server does not allow that many connections.
 *
 * @example
 * ```ts
 * await UblkDevice.create({ backend: nbd('nbd+unix:///?socket=/run/nbd.sock', { journal: '64M' }) })
 * ```
 */
export function nbd(uri: string, options: NbdOptions = {}): NbdBackend {
  checkOptions<NbdOptions>(options, 'nbd()', NAMES)
  if (typeof uri !== 'string') throw wrongType(`the URI of an NBD server must be text, not ${nameOf(uri)}`)
  const scheme = SCHEME.exec(uri)
  if (!scheme) throw invalid('this is no URI of an NBD server: it begins with nbd:// or nbd+unix://')
  if (scheme[1]) throw invalid('nbds:// needs TLS, which is not supported')
  return { kind: 'nbd', uri, ...nbdOptionsOf(options) }
}

/** Checks the options that all disks of servers have. */
export function nbdOptionsOf({ timeout, journal }: NbdOptions): Pick<NbdBackend, 'timeout' | 'journal'> {
  const bytes = journal === undefined ? undefined : parseSize(journal, 'journal')
  return { timeout: inRange('timeout', timeout), journal: inRange('journal', bytes) }
}

/** The same options on the command line. */
export function nbdOptionsOfFlags({ nbdTimeout, journal }: Flags): NbdOptions {
  return {
    ...(nbdTimeout === undefined ? {} : { timeout: nbdTimeout as number }),
    ...(journal === undefined ? {} : { journal: journal as string }),
  }
}

function inRange(name: keyof typeof LIMITS, value: unknown): number | undefined {
  if (value === undefined) return undefined
  const [least, most] = LIMITS[name]
  if (typeof value !== 'number' || !Number.isInteger(value) || value < least || value > most) {
    throw invalid(`${name} must be a whole number from ${least} to ${most}, not ${nameOf(value)}`)
  }
  return value
}

const SOCKET = /(\?socket=)(.*)/

/** The path of the server's socket; nothing if there is none, or it is wrong, which is refused when it is opened. */
function socketOf(uri: string): string | undefined {
  try {
    return decodeURIComponent(SOCKET.exec(uri)?.[2] ?? '') || undefined
  } catch {
    return undefined
  }
}

/** The same URI with an absolute path of the socket: a server that takes the disk over may be in another directory. */
function absolute(uri: string): string {
  const socket = socketOf(uri)
  return socket ? uri.replace(SOCKET, (_, key) => key + encodeURIComponent(resolve(socket))) : uri
}

/** The server's place. The name of the export is left out: servers use it as a password, too. */
function placeOf(uri: string): string {
  return socketOf(uri) ?? /^nbd:\/\/[^/?@]*/.exec(uri)?.[0] ?? ''
}

/** See {@link nbd}. */
export const nbdKind: Kind<NbdBackend> = {
  name: 'nbd',
  native: true,
  stackable: true,
  check: ({ kind: _, uri, ...options }) => nbd(uri, options as NbdOptions),
  toNative: ({ uri, timeout, journal }) => ({ uri, timeout, journal }),
  toRecord: backend => ({ ...backend, uri: absolute(backend.uri) }),
  label: ({ uri }) => placeOf(uri),
  commandLine: {
    mains: [
      {
        flags: '--nbd <uri>',
        summary: 'an export of an NBD server: nbd://host/export, nbd+unix:…',
        make: (uri, flags) => nbd(uri, nbdOptionsOfFlags(flags)),
      },
    ],
    more: [
      {
        flags: '--nbd-timeout <seconds>',
        summary: 'how long requests wait for a lost connection, or a silent server (default: 60)',
        parse: text => Math.round(parseSeconds(text) * 1000),
      },
      {
        flags: '--journal <size>',
        summary: 'keep so much of what is not flushed, and send it again to a server that has lost it',
      },
    ],
  },
}
