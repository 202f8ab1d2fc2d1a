import { checkOptions } from '../check.js'
import { formatSize, parseSize, type Size } from '../size.js'
import { checkDisks } from './below.js'
import { filesOfFlags } from './file.js'
import type { Kind } from './kind.js'
import type { StackableBackend } from './list.js'

/** Disks side by side; see {@link stripe}. */
export interface StripeBackend {
  readonly kind: 'stripe'
  /** The disks, in their order. */
  readonly disks: readonly StackableBackend[]
  /** In bytes. */
  readonly chunk: number
}

/** How a {@link stripe} distributes its bytes. */
export interface StripeOptions {
  /**
   * How many bytes go to one disk before the next disk is used: in bytes, or text such as `'64K'`; a multiple of the block
   * size, below 4 GiB. The size of each disk must be a multiple of it.
   *
   * @defaultValue 64 KiB
   */
  chunk?: Size
}

/**
 * Disks side by side (RAID 0), as one disk that is as large as all of them together: its first chunk is on the first disk,
 * its second chunk on the next disk, and so on. Large requests use several disks at the same time. Its size is fixed. If
 * one of the disks is lost, all data is lost.
 *
 * @param disks - Native backends except `lazy`, all with the same size and block size.
 * @throws UblkError of kind `invalid` if `disks` is not a list of backends, or the chunk is not a valid size.
 * `UblkDevice.create` checks whether they fit together.
 *
 * @example
 * ```ts
 * await UblkDevice.create({ backend: stripe([file('a.img'), file('b.img')], { chunk: '64K' }) })
 * ```
 */
export function stripe(disks: readonly StackableBackend[], options: StripeOptions = {}): StripeBackend {
  checkDisks(disks, 'stripe()')
  checkOptions<StripeOptions>(options, 'stripe()', { chunk: true })
  const { chunk = '64K' } = options
  return { kind: 'stripe', disks: [...disks], chunk: parseSize(chunk, 'chunk') }
}

/** See {@link stripe}. */
export const stripeKind: Kind<StripeBackend> = {
  name: 'stripe',
  native: true,
  stackable: true,
  check: ({ kind: _, disks, ...options }) => stripe(disks, options),
  below: ({ disks }) => disks,
  withBelow: (backend, disks) => ({ ...backend, disks: disks as readonly StackableBackend[] }),
  toNative: ({ disks, chunk }) => ({ disks, chunk }),
  label: ({ chunk }) => `chunk ${formatSize(chunk)}`,
  commandLine: {
    mains: [
      {
        flags: '--stripe <files>',
        summary: 'files or block devices side by side (RAID 0), separated by commas',
        make: (files, { chunk, ...flags }) => stripe(filesOfFlags(files, flags), { chunk } as StripeOptions),
      },
    ],
    more: [
      {
        flags: '--chunk <size>',
        summary:
          'how much data goes to one disk before the next (default: 64K), or is fetched at a time (128K)',
      },
    ],
    also: ['direct', 'exclusive'],
  },
}
