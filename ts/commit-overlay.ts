import { resolve } from 'node:path'
import * as native from '#binding'
import { abortable } from './abort.js'
import { checkFlag, checkOptions, checkSignal } from './check.js'
import { pathOf } from './path.js'

/** How to put an upper into its base. */
export interface CommitOptions {
  /**
   * Also if the upper is over snapshots: they, and all disks over them, cannot be used afterwards. And if the base is a block
   * device: other uppers over it must not be used afterwards, and are not refused.
   *
   * @defaultValue false
   */
  force?: boolean
  /** Ends it. The base is partly the old one then: do it again to go on. */
  signal?: AbortSignal
}

/**
 * Puts what was written to an overlay into the file, or block device, of its base, and removes the upper. Nobody serves
 * either. The base then has the content and the size that the disk had; other uppers over the same base cannot be used any
 * more, and are refused.
 *
 * If it is interrupted at any moment, nothing is lost: the upper is refused until it is done again.
 *
 * @param upper - The path of the upper.
 * @param base - The path of its base.
 * @throws UblkError of kind `backend` if the upper is of another base, or a file cannot be used; `busy` if base or upper are
 * in use, or `force` is needed and not given; `unsupported` for the upper of a disk that was flattened.
 * @throws the signal's reason if it was aborted.
 *
 * @example
 * ```ts
 * await commitOverlay('vm1.cow', 'base.img')
 * ```
 */
export async function commitOverlay(
  upper: string | URL,
  base: string | URL,
  options: CommitOptions = {},
): Promise<void> {
  const from = resolve(pathOf(upper, 'the path of the upper'))
  const into = resolve(pathOf(base, 'the path of the base'))
  checkOptions<CommitOptions>(options, 'commitOverlay()', { force: true, signal: true })
  checkFlag(options.force, 'force')
  checkSignal(options.signal)
  const { force = false, signal } = options
  await abortable(signal, cancel => native.commitOverlay(from, into, force, cancel))
}
