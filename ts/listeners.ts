import { type EventEmitter, errorMonitor } from 'node:events'
import { UblkError } from './errors.js'
import { inOneLine, onRejection } from './user-values.js'

/**
 * Calls the listeners of an event. If one throws, or its promise rejects, that becomes a process warning: an uncaught
 * exception would end the process, which may be serving other disks.
 *
 * Returns whether there are any.
 */
export function callListeners(emitter: EventEmitter, event: string, args: readonly unknown[]): boolean {
  const failed = (error: unknown): void => {
    process.emitWarning(new UblkError('system', `a listener of '${event}' failed: ${inOneLine(error)}`))
  }
  const call = (listener: unknown): void => {
    try {
      onRejection(Reflect.apply(listener as () => unknown, emitter, args), failed)
    } catch (error) {
      failed(error)
    }
  }
  if (event === 'error') emitter.rawListeners(errorMonitor).forEach(call)
  const listeners = emitter.rawListeners(event)
  listeners.forEach(call)
  return listeners.length > 0
}
