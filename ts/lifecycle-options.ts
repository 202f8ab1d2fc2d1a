import { checkFlag, checkFunction, checkOptions, checkSignal, type Names } from './check.js'
import type { UblkDevice } from './device.js'
import { invalid } from './errors.js'
import type { Json } from './json.js'
import { checkBackend, DEVICE_OPTIONS, type DeviceOptions } from './options.js'
import { nameOf } from './user-values.js'

/** How to create a device; everything except `backend` has a default. */
export interface CreateOptions extends DeviceOptions {
  /**
   * Whether to start serving at once. If false, call `start()` later.
   *
   * @defaultValue true
   */
  start?: boolean
  /**
   * Write a record of the device into the run directory, from which another process can recover it, and open a socket
   * there, through which other processes can control this server: `ublk-ts stats`, `resize` or `upgrade`, or a handle of
   * {@link UblkDevice.open}. Both are removed together with the device. All options, including those of a Worker, must be
   * representable in JSON.
   *
   * The run directory is `$UBLK_TS_RUN_DIR`, else `/run/ublk-ts` for root, and `$XDG_RUNTIME_DIR/ublk-ts` for other users,
   * or `/tmp/ublk-ts-<uid>` if `$XDG_RUNTIME_DIR` is not set.
   *
   * @defaultValue false
   */
  record?: boolean | RecordOptions
  /** Aborts the creation, which then leaves nothing behind. It has no effect after the creation. */
  signal?: AbortSignal
}

/** What else a device's record is to say; see `CreateOptions.record`. */
export interface RecordOptions {
  /** The path of the server's log, or a function that returns it for the device's number; `ublk-ts show` prints it. */
  log?: string | ((id: number) => string)
  /** Files to remove together with the device, whichever process deletes it. */
  scratch?: readonly string[]
  /** Any data for the process that takes over the device. */
  notes?: { readonly [key: string]: Json }
}

/** How to take over a device that another process created. The kernel knows the device's other options. */
export interface RecoverOptions
  extends Pick<
    CreateOptions,
    | 'backend'
    | 'observe'
    | 'requestTimeout'
    | 'stuckTimeout'
    | 'threads'
    | 'threadsPerQueue'
    | 'affinity'
    | 'poll'
    | 'buffers'
    | 'timeout'
    | 'record'
    | 'signal'
  > {
  /**
   * Called when a disk written in JavaScript has been loaded, right before the device is taken over. If the current server
   * calls {@link ServedDevice.quiesce} only now, the disk's users wait for the shortest possible time.
   */
  onReady?: () => void | Promise<void>
  /**
   * Accept another file than the one that the disk was created from. By default another file is refused if the device has
   * a record, since a mounted file system would find different data on its disk.
   *
   * @defaultValue false
   */
  otherFile?: boolean
}

/** How to resize a disk. */
export interface ResizeOptions {
  /**
   * Shrink the disk even if it is mounted, open or otherwise in use: its users lose the data beyond the new size.
   *
   * @defaultValue false
   */
  force?: boolean
  /** Stops waiting for the kernel. */
  signal?: AbortSignal
}

/** How to stop or delete a device. */
export interface EndOptions {
  /**
   * Do it even if the disk is mounted, open or otherwise in use: its users get I/O errors.
   *
   * @defaultValue false
   */
  force?: boolean
  /**
   * If the disk is in use, wait until it is free instead of failing.
   *
   * @defaultValue false
   */
  wait?: boolean
  /** Stops waiting. */
  signal?: AbortSignal
  /**
   * Called with one line of text when what the operation waits for changes, and, with `force`, when a stopped server was
   * continued, or one that did not answer was killed.
   */
  onProgress?: (line: string) => void
}

const CREATE_OPTIONS: Names<CreateOptions> = { ...DEVICE_OPTIONS, start: true, record: true, signal: true }

const RECOVER_OPTIONS: Names<RecoverOptions> = {
  backend: true,
  observe: true,
  requestTimeout: true,
  stuckTimeout: true,
  threads: true,
  threadsPerQueue: true,
  affinity: true,
  poll: true,
  buffers: true,
  timeout: true,
  record: true,
  signal: true,
  onReady: true,
  otherFile: true,
}

/**
 * Checks what {@link toSpec} does not check: the names of the options, and options that the native part does not get.
 *
 * @throws UblkError of kind `invalid`.
 */
export function checkCreate(options: unknown): asserts options is CreateOptions {
  checkOptions<CreateOptions>(options, 'UblkDevice.create()', CREATE_OPTIONS)
  checkBackend(options.backend)
  checkFlag(options.start, 'start')
  checkRecord(options.record)
  checkSignal(options.signal)
}

/** As {@link checkCreate}. */
export function checkRecover(options: unknown): asserts options is RecoverOptions {
  const what = 'UblkDevice.recover()'
  const given = typeof options === 'object' && options !== null ? Object.keys(options) : []
  const kept = given.find(
    name => Object.hasOwn(CREATE_OPTIONS, name) && !Object.hasOwn(RECOVER_OPTIONS, name),
  )
  if (kept !== undefined) {
    throw invalid(`${what} has no option '${kept}'`, 'the device keeps what it was made with: leave it out')
  }
  checkOptions<RecoverOptions>(options, what, RECOVER_OPTIONS)
  checkBackend(options.backend)
  if (options.onReady !== undefined) checkFunction(options.onReady, 'onReady')
  checkFlag(options.otherFile, 'otherFile')
  checkRecord(options.record)
  checkSignal(options.signal)
}

function checkRecord(record: unknown): void {
  if (record === undefined || typeof record === 'boolean') return
  checkOptions<RecordOptions>(record, 'record', { log: true, scratch: true, notes: true })
  const { log, scratch } = record
  if (log !== undefined && typeof log !== 'string') checkFunction(log, 'the log of the record')
  const isText = (value: unknown): boolean => typeof value === 'string'
  if (scratch !== undefined && !(Array.isArray(scratch) && scratch.every(isText))) {
    throw invalid(`the scratch of the record must be a list of paths, not ${nameOf(scratch)}`)
  }
}

/** @throws UblkError of kind `invalid`. */
export function checkResize(options: unknown): asserts options is ResizeOptions {
  checkOptions<ResizeOptions>(options, 'resize()', { force: true, signal: true })
  checkFlag(options.force, 'force')
  checkSignal(options.signal)
}

/**
 * @param what - `stop()` or `delete()`.
 * @throws UblkError of kind `invalid`.
 */
export function checkEnd(options: unknown, what: string): asserts options is EndOptions {
  checkOptions<EndOptions>(options, what, { force: true, wait: true, signal: true, onProgress: true })
  checkFlag(options.force, 'force')
  checkFlag(options.wait, 'wait')
  checkSignal(options.signal)
  if (options.onProgress !== undefined) checkFunction(options.onProgress, 'onProgress')
}

/**
 * @param what - The method, whose only option is `signal`.
 * @throws UblkError of kind `invalid`.
 */
export function checkWaiting(options: unknown, what: string): asserts options is { signal?: AbortSignal } {
  checkOptions<{ signal?: AbortSignal }>(options, what, { signal: true })
  checkSignal(options.signal)
}
