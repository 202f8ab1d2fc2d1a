import type { UblkDevice } from './device.js'
import type { DeviceOptions } from './options.js'
import type { RecordOptions } from './service/presence.js'

/** How to make a device; everything but `backend` has a default. */
export interface CreateOptions extends DeviceOptions {
  /**
   * Whether to start serving at once. If false, `start()` does.
   *
   * @defaultValue true
   */
  start?: boolean
  /**
   * Leave a record of the device in the run directory, from which another process can serve it on, and a socket at
   * which this one can be asked: by `ublk-ts stats`, `resize` or `upgrade`, or by {@link UblkDevice.readStats}. It goes
   * with the device. The options, those of a worker included, have to be such as JSON can say.
   *
   * The directory is `$UBLK_TS_RUN_DIR`, else `/run/ublk-ts` for root, and `$XDG_RUNTIME_DIR/ublk-ts` for others, or
   * `/tmp/ublk-ts-<uid>` where there is no such thing.
   *
   * @defaultValue false
   */
  record?: boolean | RecordOptions
  /** Aborts the creation, which then leaves nothing behind. It has no effect afterwards. */
  signal?: AbortSignal
}

/** How to take over a device that another process made: what it looks like, the kernel knows. */
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
   * Called when a disk written in JavaScript has been loaded, right before the device is asked for: the moment for
   * whoever serves it to {@link UblkDevice.quiesce} it, if its users are to wait as short as possible.
   */
  onReady?: () => void | Promise<void>
}

/** How to resize a disk. */
export interface ResizeOptions {
  /**
   * Shrink the disk even if it is mounted, open or otherwise held: its users lose what lies behind.
   *
   * @defaultValue false
   */
  force?: boolean
  /** Aborts the waiting for the kernel. */
  signal?: AbortSignal
}

/** How to stop or delete a device. */
export interface EndOptions {
  /**
   * Do it even if the disk is mounted, open or otherwise held: its users get I/O errors.
   *
   * @defaultValue false
   */
  force?: boolean
  /**
   * If the disk is held, wait until it is free instead of failing.
   *
   * @defaultValue false
   */
  wait?: boolean
  /** Aborts the waiting. */
  signal?: AbortSignal
}
