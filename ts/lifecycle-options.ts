import { checkFlag, checkFunction, checkOptions, checkSignal, type Names } from './check.js'
import { invalid } from './errors.js'
import { checkBackend } from './options/backend.js'
import type { CreateOptions, ServingOption } from './options/device-options.js'
import { OPTIONS, SERVING_OPTIONS } from './options/table.js'
import { checkValues } from './options/value.js'

/** How to take over a device that another process created. The kernel knows the device's other options. */
export interface RecoverOptions extends Pick<CreateOptions, ServingOption> {
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

/** How to reset an overlay's disk. */
export interface ResetOptions {
  /**
   * Reset the disk even if it is mounted, open or otherwise in use: it changes under its users, and a mounted file system
   * may then write what does not fit to it.
   *
   * @defaultValue false
   */
  force?: boolean
  /** Stops waiting. */
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

/**
 * Checks the options of `UblkDevice.create()`. What depends on the backend is checked once that is loaded.
 *
 * @throws UblkError of kind `invalid`.
 */
export function checkCreate(options: unknown): asserts options is CreateOptions {
  checkOptions<CreateOptions>(options, 'UblkDevice.create()', names<CreateOptions>(Object.keys(OPTIONS)))
  checkBackend(options.backend)
  checkValues(options)
}

/** As {@link checkCreate}. */
export function checkRecover(options: unknown): asserts options is RecoverOptions {
  const what = 'UblkDevice.recover()'
  const own = ['onReady', 'otherFile']
  const given = typeof options === 'object' && options !== null ? Object.keys(options) : []
  const kept = given.find(name => Object.hasOwn(OPTIONS, name) && !SERVING_OPTIONS.includes(name))
  if (kept !== undefined) {
    throw invalid(`${what} has no option '${kept}'`, 'the device keeps what it was made with: leave it out')
  }
  checkOptions<RecoverOptions>(options, what, names<RecoverOptions>([...SERVING_OPTIONS, ...own]))
  checkBackend(options.backend)
  checkValues(options)
  if (options.onReady !== undefined) checkFunction(options.onReady, 'onReady')
  checkFlag(options.otherFile, 'otherFile')
}

function names<Options>(list: readonly string[]): Names<Options> {
  return Object.fromEntries(list.map(name => [name, true])) as Names<Options>
}

/** @throws UblkError of kind `invalid`. */
export function checkResize(options: unknown): asserts options is ResizeOptions {
  checkOptions<ResizeOptions>(options, 'resize()', { force: true, signal: true })
  checkFlag(options.force, 'force')
  checkSignal(options.signal)
}

/** @throws UblkError of kind `invalid`. */
export function checkReset(options: unknown): asserts options is ResetOptions {
  checkOptions<ResetOptions>(options, 'reset()', { force: true, signal: true })
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
