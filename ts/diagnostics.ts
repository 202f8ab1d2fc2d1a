import { type Channel, channel } from 'node:diagnostics_channel'
import type { EventEmitter } from 'node:events'
import type { UblkDeviceEvents } from './events.js'
import { callListeners } from './listeners.js'

/** Their names are public: `ublk-ts.disk.live` and so on; see docs/operations.md. */
const channels: Readonly<Record<keyof UblkDeviceEvents, Channel>> = {
  live: named('live'),
  quiesced: named('quiesced'),
  released: named('released'),
  stopped: named('stopped'),
  deleted: named('deleted'),
  error: named('error'),
  fenced: named('fenced'),
  recovered: named('recovered'),
  exit: named('exit'),
}

function named(event: string): Channel {
  return channel(`ublk-ts.disk.${event}`)
}

/** Publishes it to those who watch all disks of the process. Without subscribers it does nothing. */
function publish(disk: object, event: string, [detail]: readonly unknown[]): void {
  const its = Object.hasOwn(channels, event) ? channels[event as keyof UblkDeviceEvents] : undefined
  if (!its?.hasSubscribers) return
  its.publish({ disk, ...(event === 'error' ? { error: detail } : (detail as object | undefined)) })
}

/** Tells an event of a disk to those who watch all disks, and to its own listeners. Returns whether it has any. */
export function tellOfDisk(
  disk: EventEmitter,
  event: keyof UblkDeviceEvents,
  args: readonly unknown[],
): boolean {
  publish(disk, event, args)
  return callListeners(disk, event, args)
}
