import type { UblkError } from './errors.js'

/** Why this process does not serve a device any more, or its disk has stopped. */
export interface DeviceExit {
  /** In one line. */
  reason: string
}

/** How serving ended without a request of this process. */
export interface ServingEnd extends DeviceExit {
  /** Whether the disk still exists and waits for a server, because it was created with `recovery`. */
  waits: boolean
}

/** The events of a device that this process serves, with their arguments. */
export interface UblkDeviceEvents {
  /** The disk became usable. */
  live: []
  /** `quiesce()` has stopped serving it. The disk still exists, and new requests wait. */
  quiesced: []
  /** `release()` has left it to another process. */
  released: []
  /** `stop()` has removed the disk; `start()` creates it again. */
  stopped: []
  /** The device was deleted. */
  deleted: []
  /**
   * Something failed while serving. Without a listener it becomes a process warning: unlike other emitters, a device does
   * not end the process, which may serve other disks.
   */
  error: [error: UblkError]
  /**
   * Somebody else has opened the volume of its {@link s3} disk: its requests fail from now on. An `error` with the same text
   * follows.
   */
  fenced: [loss: DeviceExit]
  /** The thread that served it ended, and another one has taken over. The disk existed all the time. */
  recovered: [exit: DeviceExit]
  /**
   * Serving ended without a request of this process. If the disk `waits` for a server, `resume()` serves it again, and
   * `release()`, or the end of this process, leaves it to another process. Otherwise the disk is removed: delete the
   * device.
   */
  exit: [exit: ServingEnd]
}
