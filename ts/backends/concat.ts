import { checkOptions } from '../check.js'
import { checkDisks } from './below.js'
import { filesOfFlags } from './file.js'
import type { Kind } from './kind.js'
import type { StackableBackend } from './list.js'

/** Disks one after another; see {@link concat}. */
export interface ConcatBackend {
  readonly kind: 'concat'
  /** The disks, in their order. */
  readonly disks: readonly StackableBackend[]
}

/**
 * Disks one after another, as one disk that is as large as all of them together. Its size is fixed.
 *
 * @param disks - Native backends except `lazy`, all with the same block size.
 * @throws UblkError of kind `invalid` if `disks` is not a list of backends. `UblkDevice.create` checks whether they fit
 * together.
 *
 * @example
 * ```ts
 * await UblkDevice.create({ backend: concat([file('a.img'), file('b.img')]) })
 * ```
 */
export function concat(disks: readonly StackableBackend[]): ConcatBackend {
  checkDisks(disks, 'concat()')
  return { kind: 'concat', disks: [...disks] }
}

/** See {@link concat}. */
export const concatKind: Kind<ConcatBackend> = {
  name: 'concat',
  native: true,
  stackable: true,
  check: ({ kind: _, disks, ...others }) => {
    checkOptions<object>(others, 'concat()', {})
    return concat(disks)
  },
  below: ({ disks }) => disks,
  withBelow: (backend, disks) => ({ ...backend, disks: disks as readonly StackableBackend[] }),
  toNative: ({ disks }) => ({ disks }),
  label: () => '',
  commandLine: {
    mains: [
      {
        flags: '--concat <files>',
        summary: 'files or block devices one after another, separated by commas',
        make: (files, flags) => concat(filesOfFlags(files, flags)),
      },
    ],
    also: ['direct', 'exclusive'],
  },
}
