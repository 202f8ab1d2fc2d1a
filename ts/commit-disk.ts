import { setTimeout as sleep } from 'node:timers/promises'
import { checkFlag, checkFunction, checkOptions, checkSignal } from './check.js'
import type { FlattenProgress } from './info.js'
import { parseSize, type Size } from './size.js'

/** How often a commit's progress is looked up, in milliseconds. */
const LOOK = 200

/** How to commit a disk that is in use. */
export interface CommitDiskOptions {
  /**
   * The most bytes to copy per second, or text such as `'50M'`.
   *
   * @defaultValue no limit
   */
  rate?: Size
  /**
   * Also if the disk has snapshots: they, and all disks over them, cannot be used afterwards.
   *
   * @defaultValue false
   */
  force?: boolean
  /** Ends it. The base is partly the old one then, and only of use to this disk: commit it again to go on. */
  signal?: AbortSignal
  /** Called now and then with how far it has come. */
  onProgress?: (progress: FlattenProgress) => void
}

/** The checked options of `commit()`. */
export interface CommitWishes {
  rate: number | undefined
  force: boolean
}

/**
 * Checks the options of `commit()`.
 *
 * @throws UblkError of kind `invalid`.
 */
export function checkCommit(options: unknown): CommitWishes {
  checkOptions<CommitDiskOptions>(options, 'commit()', {
    rate: true,
    force: true,
    signal: true,
    onProgress: true,
  })
  checkSignal(options.signal)
  checkFlag(options.force, 'force')
  if (options.onProgress !== undefined) checkFunction(options.onProgress, 'onProgress')
  const rate = options.rate === undefined ? undefined : Math.max(parseSize(options.rate, 'rate'), 1)
  return { rate, force: options.force ?? false }
}

/** Passes on how far some work has come, until it has ended. */
export async function watched(
  work: Promise<void>,
  look: () => Promise<FlattenProgress | undefined>,
  onProgress: ((progress: FlattenProgress) => void) | undefined,
): Promise<void> {
  if (!onProgress) return await work
  let over = false
  const ended = work.finally(() => {
    over = true
  })
  const watch = async (): Promise<void> => {
    while (!over) {
      const progress = await look().catch(() => undefined)
      if (progress && !over) onProgress(progress)
      await Promise.race([ended.catch(() => undefined), sleep(LOOK, undefined, { ref: false })])
    }
  }
  await Promise.all([ended, watch()])
}
