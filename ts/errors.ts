import native from './native/load.cjs'
import { printable } from './printable.js'
import { apiWords, type RemedyWords, worded } from './remedies.js'
import { inOneLine } from './user-values.js'

/**
 * Why something failed, to match on:
 *
 * - `no-driver`: this kernel has no ublk driver, or it is not loaded
 * - `no-permission`: the caller may not use it
 * - `no-io-uring`: io_uring is missing, disabled or blocked
 * - `unsupported`: this kernel or this backend cannot do it
 * - `limit`: a limit of the system was reached, such as the number of devices
 * - `exists`: the device id, or the name of a checkpoint, is taken
 * - `not-found`: there is no such device or checkpoint
 * - `busy`: the disk is mounted, open or otherwise held
 * - `invalid`: a value given by the caller is wrong
 * - `backend`: the storage behind the disk failed, such as a missing file
 * - `timeout`: the kernel did not answer in time
 * - `cancelled`: it was aborted
 * - `closed`: the device was already deleted
 * - `system`: anything else the system reported
 */
export type UblkErrorKind =
  | 'no-driver'
  | 'no-permission'
  | 'no-io-uring'
  | 'unsupported'
  | 'limit'
  | 'exists'
  | 'not-found'
  | 'busy'
  | 'invalid'
  | 'backend'
  | 'timeout'
  | 'cancelled'
  | 'closed'
  | 'system'

/** What is known about a failure beyond its message. */
export interface UblkErrorDetails {
  /** The ublk command that failed, such as `ADD_DEV`. */
  command?: string | undefined
  /** The id of the device it was about. */
  device?: number | undefined
  /** The kernel's error number, positive. */
  errno?: number | undefined
  /** The name of that number, such as `EBUSY`; of a wrong value a code of Node's, such as `ERR_INVALID_ARG_TYPE`. */
  code?: string | undefined
  /** What to do about it, in one sentence. */
  hint?: string | undefined
  /** The error underneath. */
  cause?: unknown
}

let templateOf: (error: UblkError) => string | undefined

/** The one error type of this package. Its message is one line, without the hint. */
export class UblkError extends Error {
  /** What sort of failure it was. */
  readonly kind: UblkErrorKind
  /** The ublk command that failed, such as `ADD_DEV`. */
  readonly command: string | undefined
  /** The id of the device it was about. */
  readonly device: number | undefined
  /** The kernel's error number, positive. */
  readonly errno: number | undefined
  /**
   * The name of that number, such as `EBUSY`. If the kind is `invalid`, Node's code for such values: `ERR_INVALID_ARG_TYPE`,
   * `ERR_OUT_OF_RANGE`, or `ERR_INVALID_ARG_VALUE` for all others.
   */
  readonly code: string | undefined
  /** What to do about it, in one sentence. */
  readonly hint: string | undefined
  /** With `{…}` where each surface has its own words. */
  readonly #hint: string | undefined

  constructor(kind: UblkErrorKind, message: string, details: UblkErrorDetails = {}) {
    super(printable(message), details.cause === undefined ? undefined : { cause: details.cause })
    this.kind = kind
    this.command = details.command
    this.device = details.device
    this.errno = details.errno
    this.code = details.code ?? (kind === 'invalid' ? 'ERR_INVALID_ARG_VALUE' : undefined)
    this.#hint = details.hint === undefined ? undefined : printable(details.hint)
    this.hint = this.#hint === undefined ? undefined : worded(this.#hint, apiWords, this.device)
  }

  static {
    templateOf = error => error.#hint
    // On the prototype, as for the built-in errors, so that it is not printed as a field.
    Object.defineProperty(UblkError.prototype, 'name', {
      value: 'UblkError',
      configurable: true,
      writable: true,
    })
  }
}

native.makeErrorsBy((kind, message, details) => new UblkError(kind, message, details))

/** An error's hint in the words of a surface, or as it was written: {@link UblkError.hint} has those of the API. */
export function hintOf(error: UblkError, words?: RemedyWords): string | undefined {
  const hint = templateOf(error)
  return hint === undefined || words === undefined ? hint : worded(hint, words, error.device)
}

/** Node's codes for wrong values. */
export type InvalidCode = 'ERR_INVALID_ARG_TYPE' | 'ERR_INVALID_ARG_VALUE' | 'ERR_OUT_OF_RANGE'

/** An error about a value the caller gave. */
export function invalid(message: string, hint?: string, code?: InvalidCode): UblkError {
  return new UblkError('invalid', message, { hint, code })
}

/** The same about a value of another type than was expected. */
export function wrongType(message: string, hint?: string): UblkError {
  return invalid(message, hint, 'ERR_INVALID_ARG_TYPE')
}

/** The same about a value that is no number, or is out of range. */
export function wrongNumber(message: string, value: unknown, hint?: string): UblkError {
  return invalid(message, hint, typeof value === 'number' ? 'ERR_OUT_OF_RANGE' : 'ERR_INVALID_ARG_TYPE')
}

/** What the native part rejects with: the same details, null where there is none. */
interface NativeError extends Error {
  kind?: UblkErrorKind | null
  command?: string | null
  device?: number | null
  errno?: number | null
  code?: string | null
  hint?: string | null
}

/** Turns any thrown value into a {@link UblkError}. It never throws. */
export function wrap(error: unknown): UblkError {
  try {
    if (error instanceof UblkError) return error
    if (error instanceof Error && typeof error.message === 'string') return wrapped(error)
  } catch {} // The error's properties cannot be read.
  return new UblkError('system', inOneLine(error), { cause: error })
}

/** Rejects with any reason as a {@link UblkError}; for `catch()`. */
export function rethrow(error: unknown): never {
  throw wrap(error)
}

function wrapped(error: NativeError): UblkError {
  const { kind, message, command, device, errno, code, hint } = error
  return new UblkError(kind ?? 'system', message, {
    command: command ?? undefined,
    device: device ?? undefined,
    errno: errno ?? undefined,
    code: code ?? undefined,
    hint: hint ?? undefined,
    cause: error,
  })
}
