import { resolve } from 'node:path'
import { checkOptions } from '../check.js'
import { invalid } from '../errors.js'
import { pathOf } from '../path.js'
import { checkDisks } from './below.js'
import { filesOfFlags } from './file.js'
import type { Kind } from './kind.js'
import type { StackableBackend } from './list.js'

/** Disks with the same data; see {@link mirror}. */
export interface MirrorBackend {
  readonly kind: 'mirror'
  /** The disks, in their order. */
  readonly disks: readonly StackableBackend[]
  /** The path of the file that remembers which disks have all. */
  readonly bitmap: string | undefined
}

/** What a {@link mirror} remembers. */
export interface MirrorOptions {
  /**
   * The path of a small file that remembers which disks have all, and where they may differ. It is made if it does not exist:
   * then the first disk has all, and the others are filled. Keep it on another disk than one of the mirror's, if you can: without
   * it nobody knows which disk is the newer one.
   *
   * @defaultValue none, which is possible if all disks are in the memory of their server
   */
  bitmap?: string | URL
}

/**
 * Two to eight disks with the same data (RAID 1), as one disk. A write goes to all of them, and is answered when all have it;
 * reads are shared out. Its size is fixed.
 *
 * A disk that fails a write is dropped, and the log of the disk's server says so; the mirror goes on with the others. A disk that
 * cannot be read is read no more after 16 errors; what it could not read comes from another one. `resync()` of the device brings it
 * back: only what it missed is copied, while the disk is in use. The last disk that has all is never dropped: its errors are the
 * mirror's.
 *
 * After a crash or a power failure, at most the parts that were written shortly before differ: these are copied from one disk to
 * the others when the mirror is served again, in the background. A disk that was dropped stays dropped until it has all again.
 * The first write to a part of 1 MiB or more that did not change for some seconds waits until the map has a note of it.
 *
 * @param disks - Native backends except `lazy`, all of the same size.
 * @throws UblkError of kind `invalid` if `disks` is not a list of two to eight backends. `UblkDevice.create` checks whether they fit
 * together, and with the map.
 *
 * @example
 * ```ts
 * const disks = [file('a.img'), file('b.img')]
 * await UblkDevice.create({ backend: mirror(disks, { bitmap: 'mirror.map' }) })
 * ```
 */
export function mirror(disks: readonly StackableBackend[], options: MirrorOptions = {}): MirrorBackend {
  checkDisks(disks, 'mirror()')
  if (disks.length < 2 || disks.length > 8) throw invalid('mirror() takes two to eight backends')
  checkOptions<MirrorOptions>(options, 'mirror()', { bitmap: true })
  const { bitmap } = options
  return {
    kind: 'mirror',
    disks: [...disks],
    bitmap: bitmap === undefined ? undefined : pathOf(bitmap, 'the path of the bitmap'),
  }
}

/** See {@link mirror}. */
export const mirrorKind: Kind<MirrorBackend> = {
  name: 'mirror',
  native: true,
  stackable: true,
  check: ({ kind: _, disks, bitmap }) => mirror(disks, bitmap === undefined ? {} : { bitmap }),
  below: ({ disks }) => disks,
  withBelow: (backend, disks) => ({ ...backend, disks: disks as readonly StackableBackend[] }),
  toNative: ({ disks, bitmap }) => ({ disks, bitmap }),
  toRecord: backend =>
    backend.bitmap === undefined ? backend : { ...backend, bitmap: resolve(backend.bitmap) },
  paths: ({ bitmap }) => (bitmap === undefined ? [] : [bitmap]),
  label: ({ bitmap }) => bitmap ?? '',
  commandLine: {
    mains: [
      {
        flags: '--mirror <files>',
        summary: 'files or block devices with the same data (RAID 1), separated by commas',
        make: (files, { bitmap, ...flags }) =>
          mirror(
            filesOfFlags(files, flags),
            bitmap === undefined ? {} : { bitmap: resolve(bitmap as string) },
          ),
      },
    ],
    more: [
      {
        flags: '--bitmap <path>',
        summary: 'a file that remembers where they may differ after a crash; it is made if it does not exist',
      },
    ],
    also: ['direct', 'exclusive'],
  },
}
