import type { UblkError } from './errors.js'

/** Why a device is served no more. */
export interface DeviceExit {
  /** In one line. */
  reason: string
}

/** How serving ended, though this process did not ask for it. */
export interface ServingEnd extends DeviceExit {
  /** Whether the disk is still there and waits for a server: it was made with `recovery`. */
  waits: boolean
}

/** The events of a device that this process serves, with their arguments. */
export interface UblkDeviceEvents {
  /** The disk became usable. */
  live: []
  /** Nobody serves it after `quiesce()`; its disk waits. */
  quiesced: []
  /** Another process serves it after `release()`, or is to. */
  released: []
  /** The disk is gone after `stop()`; `start()` brings it back. */
  stopped: []
  /** The device is gone. */
  deleted: []
  /**
   * Serving met a failure. Without a listener it becomes a process warning: unlike other emitters,
   * a device does not end the process that may be serving further disks.
   */
  error: [error: UblkError]
  /** The thread that served it ended, and another has taken over; the disk was there all the time. */
  recovered: [exit: DeviceExit]
  /**
   * Serving ended though this process did not ask for it. If the disk `waits` for a server, `release()` leaves it to
   * another process, as the end of this one does, and `resume()` serves it again. Otherwise it is gone: delete the device.
   */
  exit: [exit: ServingEnd]
}
