import { type InspectOptions, inspect } from 'node:util'
import { wordsFor } from './backends/stack.js'
import type { DeviceHandle } from './device-handle.js'
import type { DeviceState } from './info.js'
import type { LocalDevice } from './local-device.js'
import { readBackend } from './remote/record-file.js'
import { formatSize } from './size.js'

/** What only the object itself knows. */
interface Inside {
  readonly local: LocalDevice | undefined
  /** As the kernel said last. */
  readonly state: DeviceState
}

/** Has `console.log()` show what a disk is, not how its object is made. */
export function showAs(prototype: DeviceHandle, inside: (disk: DeviceHandle) => Inside): void {
  const show = function (this: DeviceHandle, depth: number, options: InspectOptions): string {
    const type = this.constructor.name
    // A prototype is no disk.
    if (Object.hasOwn(this, 'constructor')) return `${type} {}`
    const { path } = this
    return depth < 0 ? `[${type} ${path}]` : `${type} ${inspect(about(this, inside(this)), options)}`
  }
  Object.defineProperty(prototype, inspect.custom, { value: show, configurable: true, writable: true })
}

function about(disk: DeviceHandle, { local, state }: Inside): object {
  const { id, path, size, queues } = disk
  const name = local?.ended ? undefined : disk.name
  return {
    id,
    path,
    ...(name !== undefined && { name }),
    size: formatSize(size),
    ...backendOf(id, local),
    queues,
    state: local?.ended ? 'gone' : state,
    servedHere: disk.local,
  }
}

function backendOf(id: number, local: LocalDevice | undefined): { backend?: string } {
  const backend = wordsFor(local?.backend) ?? (local ? 'JavaScript' : wordsFor(readBackend(id)))
  return backend === undefined ? {} : { backend }
}
