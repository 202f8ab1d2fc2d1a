import { resolve } from 'node:path'
import { checkOptions } from '../check.js'
import { invalid } from '../errors.js'
import { pathOf } from '../path.js'
import { checkDisk } from './below.js'
import type { Kind } from './kind.js'
import type { StackableBackend } from './list.js'

/** A disk that records its changes; see {@link tracked}. */
export interface TrackedBackend {
  readonly kind: 'tracked'
  /** The disk whose changes are recorded. */
  readonly disk: StackableBackend
  /** The path of the change map. */
  readonly map: string
}

/** How {@link tracked} records changes. */
export interface TrackedOptions {
  /**
   * The file that keeps the checkpoints, and what was changed since, from one server to the next. It is created if it does
   * not exist; other users cannot read it. It belongs to this disk, and two disks cannot use it at the same time.
   */
  map: string | URL
}

/**
 * A disk that records which of its blocks of 4 KiB are changed, for incremental backups: {@link UblkDevice.checkpoint} makes
 * a checkpoint, and {@link UblkDevice.changed} returns what was changed since.
 *
 * The record costs each write some changes of memory, a bit for 4 KiB, and no system call. It is complete: a block that is
 * not named was not changed. A block that is named may have been written with the same data.
 *
 * The record is saved when the disk is no longer served. If its server was killed, or the power failed, everything counts
 * as changed since each checkpoint that was made before. The same holds if the disk's file was changed elsewhere
 * meanwhile, which its size and the time of its last change tell; the upper of an overlay says who wrote to it. A block
 * device has no such time: if it is written to while this disk is not served, use another map afterwards.
 *
 * A {@link UblkDevice.snapshot | snapshot} of the disk makes a checkpoint of that name, at the same instant.
 *
 * With `tracked`, the copy mode `user` is not possible.
 *
 * @param disk - A native backend except `lazy`.
 * @param options - Where the record is kept.
 * @throws UblkError of kind `invalid` if an option is wrong. `UblkDevice.create` opens the map, and rejects with kind
 * `backend` if it is damaged or belongs to a disk of another size, or `busy` if another disk uses it.
 *
 * @example
 * ```ts
 * const disk = await UblkDevice.create({ backend: tracked(file('disk.img'), { map: 'disk.changes' }) })
 * await disk.checkpoint('monday')
 * const { ranges } = await disk.changed({ since: 'monday' })
 * ```
 */
export function tracked(disk: StackableBackend, options: TrackedOptions): TrackedBackend {
  checkDisk(disk, 'tracked()')
  checkOptions<TrackedOptions>(options, 'tracked()', { map: true })
  if (options.map === undefined) {
    throw invalid('tracked() needs a map', "such as tracked(file('disk.img'), { map: 'disk.changes' })")
  }
  return { kind: 'tracked', disk, map: pathOf(options.map, 'the path of the change map') }
}

/** See {@link tracked}. */
export const trackedKind: Kind<TrackedBackend> = {
  name: 'tracked',
  native: true,
  stackable: false,
  check: ({ kind: _, disk, ...options }) => tracked(disk, options),
  below: ({ disk }) => [disk],
  withBelow: (backend, [disk]) => ({ ...backend, disk: disk as StackableBackend }),
  sameSize: true,
  toNative: ({ disk, map }) => ({ disk, map }),
  // The next server may have another working directory.
  toRecord: backend => ({ ...backend, map: resolve(backend.map) }),
  paths: ({ map }) => [map],
  label: ({ map }) => `changes in ${map}`,
  commandLine: {
    more: [
      {
        flags: '--track <path>',
        summary: 'record which blocks are changed, for ublk-ts checkpoint and changed, in this file',
      },
    ],
    over: {
      main: ['--mem', '--null', '--file', '--qcow2', '--concat', '--stripe'],
      make: (disk, { track }) => {
        const path = track as string
        return tracked(disk as StackableBackend, { map: path === '' ? '' : resolve(path) })
      },
    },
  },
}
