import { pathsOf } from '../../backends/stack.js'
import type { DeviceRecord } from '../../remote/record-file.js'
import { type Check, found } from './check.js'
import type { Machine } from './machine.js'

/** A served disk. */
export type ServedDisk = Pick<DeviceRecord, 'id' | 'log' | 'notes' | 'options'>

/**
 * Whether a server may deadlock with its own disk: it can be swapped out to the disk, or has files there. Never
 * accesses a disk, which might hang.
 *
 * @param runDir - The run directory, with the servers' records.
 */
export async function ownDiskCheck(
  machine: Machine,
  served: readonly ServedDisk[],
  runDir: string,
): Promise<Check | undefined> {
  const swaps = await machine.swaps()
  const mounts = await machine.mounts()
  const troubles: string[] = []
  for (const { id, log, notes, options } of served) {
    const isOurs = (device: string): boolean => new RegExp(`^/dev/ublkb${id}(?:p\\d+)?$`).test(device)
    if (notes['mlock'] !== true && swaps.some(isOurs)) {
      troubles.push(`/dev/ublkb${id} has swap on it, and its server can be swapped out to it`)
    }
    const files = [runDir, log, ...pathsOf(options.backend)].filter(path => path !== null)
    const there = files.find(path => isOurs(sourceOf(path, mounts)))
    if (there !== undefined)
      troubles.push(`the server of /dev/ublkb${id} uses ${there}, which is on that disk`)
  }
  if (troubles.length === 0) return undefined
  return found(
    'itself',
    'warn',
    `${troubles.join('; ')}: a server that waits for its own disk deadlocks`,
    'put swap, and the files that servers use, on other disks',
  )
}

/** A mounted file system: the device, and where it is. */
export interface Mount {
  readonly source: string
  readonly point: string
}

/**
 * The device of the file system that holds a path: the one with the longest mount point above it, and of several the
 * last.
 */
function sourceOf(path: string, mounts: readonly Mount[]): string {
  let best: Mount = { source: '', point: '' }
  for (const mount of mounts) {
    const above = mount.point === '/' || path === mount.point || path.startsWith(`${mount.point}/`)
    if (above && mount.point.length >= best.point.length) best = mount
  }
  return best.source
}
