import { totalmem } from 'node:os'
import { resolve } from 'node:path'
import { checkOptions } from '../check.js'
import { invalid, wrongNumber } from '../errors.js'
import { pathOf } from '../path.js'
import { formatSize, parseSize, type Size } from '../size.js'
import { nameOf } from '../user-values.js'
import { checkDisk } from './below.js'
import { diskSize } from './disk-size.js'
import type { Kind } from './kind.js'
import type { BaseBackend } from './overlay.js'

/** A disk whose power can be cut; see {@link powercut}. */
export interface PowercutBackend {
  readonly kind: 'powercut'
  /** What was there before; undefined: zeroes. */
  readonly over: BaseBackend | undefined
  /** In bytes, without that. */
  readonly size: number | undefined
  /** What the disk never writes in part, in bytes. */
  readonly unit: number
  /** Determines what a cut leaves. */
  readonly seed: number
  /** The file with the data of the log; undefined: in memory. */
  readonly log: string | undefined
  /** The most bytes of data that are recorded. */
  readonly logMax: number
  /** The log in dm-log-writes' format with which its record begins. */
  readonly replay: string | undefined
}

/** What a {@link powercut} disk consists of. */
export interface PowercutOptions {
  /** Of a disk that is zeroes at first: bytes, or text such as `'512M'`. Either this or `over`; with `replay` also neither. */
  size?: Size
  /** The disk that it begins with, which stays as it is. Either this or `size`. */
  over?: BaseBackend
  /**
   * A log in the format of dm-log-writes, with which the record begins: a file that {@link UblkDevice.exportLog}, QEMU's driver
   * blklogwrites or somebody else has written, or the log device of the kernel's target log-writes. It is read when the device is
   * created, and not used afterwards. The disk then has the content that the log leaves, and goes on recording.
   *
   * Give the `size` of the disk on which the log was recorded, or the disk as it was then in `over`. With neither, the disk is
   * zeroes at first and ends where the log's last sector does, rounded up to whole MiB, at most 1 TiB.
   */
  replay?: string | URL
  /**
   * What the disk never writes in part, in bytes: its physical block size, which programs can ask for. A power cut may leave a
   * longer write in part. With 512, that may be the superblock of ext4, which is then repaired by e2fsck only.
   *
   * @defaultValue 4096
   */
  unit?: 512 | 4096
  /**
   * Determines what a cut leaves, and which states are tried: the same seed and the same writes give the same states. A whole
   * number from 0 to 2⁵³ − 1.
   *
   * @defaultValue 0
   */
  seed?: number
  /**
   * A file for the data of the log, which must not exist.
   *
   * @defaultValue in memory
   */
  log?: string | URL
  /**
   * The most data that is recorded: bytes, or text such as `'16G'`. Writes beyond it fail with ENOSPC. It takes up only what is
   * written. If a log in memory may become larger than what is free, the kernel ends processes when nothing is left.
   *
   * @defaultValue `'64G'`; for a log in memory, half of the memory that the machine has, or that this process's control group may
   * have, if that is less
   */
  logMax?: Size
}

/**
 * A disk that keeps every version of what was written to it, so that its power can be cut: at once or at an event, while
 * programs use it ({@link ServedDevice.cut}), and afterwards at each moment of what was recorded
 * ({@link ServedDevice.crashStates}).
 *
 * It has a write cache: what was written is certain only after a flush, or with FUA. A flush covers the writes that were answered
 * before it came. Memory or the log's file grow with all that is written, and nothing is kept when the device is deleted.
 *
 * @throws UblkError of kind `invalid` if an option is wrong.
 *
 * @example
 * ```ts
 * const disk = await UblkDevice.create({ backend: powercut({ size: '64M' }) })
 * ```
 */
export function powercut(options: PowercutOptions): PowercutBackend {
  checkOptions<PowercutOptions>(options, 'powercut()', {
    size: true,
    over: true,
    unit: true,
    seed: true,
    log: true,
    logMax: true,
    replay: true,
  })
  const { size, over, unit = 4096, seed = 0, log, replay } = options
  const { logMax = log === undefined ? mostInMemory() : MOST } = options
  const begins = [size, over].filter(given => given !== undefined).length
  if (begins > 1 || (begins === 0 && replay === undefined)) {
    throw invalid(
      'powercut() needs a size or a disk that it begins with, and not both',
      "such as { size: '64M' }",
    )
  }
  if (over !== undefined) checkDisk(over, 'powercut()')
  if (unit !== 512 && unit !== 4096) throw wrongNumber(`unit must be 512 or 4096, not ${nameOf(unit)}`, unit)
  return {
    kind: 'powercut',
    over,
    size: size === undefined ? undefined : diskSize(size),
    unit,
    seed: checkSeed(seed),
    log: log === undefined ? undefined : pathOf(log, 'the path of the log'),
    logMax: parseSize(logMax, 'logMax'),
    replay: replay === undefined ? undefined : pathOf(replay, 'the path of the log to replay'),
  }
}

/** The most data of a log by default, in bytes. */
const MOST = 64 * 2 ** 30

const MIB = 2 ** 20

/**
 * The most data of a log in memory by default, of so many bytes of memory: without room for it, the kernel would end processes, and
 * not fail writes.
 */
export function mostInMemory(
  memory: number = Math.min(totalmem(), process.constrainedMemory() || Number.POSITIVE_INFINITY),
): number {
  return Math.max(Math.min(Math.floor(memory / 2 / MIB) * MIB, MOST), MIB)
}

/**
 * Checks a seed.
 *
 * @throws UblkError of kind `invalid`.
 */
export function checkSeed(seed: unknown): number {
  if (Number.isSafeInteger(seed) && (seed as number) >= 0) return seed as number
  throw wrongNumber(
    `a seed must be a whole number from 0 to ${Number.MAX_SAFE_INTEGER}, not ${nameOf(seed)}`,
    seed,
  )
}

/** See {@link powercut}. */
export const powercutKind: Kind<PowercutBackend> = {
  name: 'powercut',
  native: true,
  stackable: false,
  takesLazy: true,
  check: ({ kind: _, ...options }) => powercut(options as PowercutOptions),
  below: ({ over }) => (over === undefined ? [] : [over]),
  withBelow: (backend, [over]) => ({ ...backend, over: over as BaseBackend | undefined }),
  toNative: ({ over, size, unit, log, logMax, replay }) => ({ over, size, unit, log, logMax, replay }),
  toRecord: ({ log, replay, ...backend }) => ({
    ...backend,
    log: log === undefined ? undefined : resolve(log),
    replay: replay === undefined ? undefined : resolve(replay),
  }),
  size: ({ size }) => size,
  paths: ({ log }) => (log === undefined ? [] : [log]),
  memory: () => null,
  label: ({ size, log, replay }) => {
    const where = log === undefined ? 'log in memory' : `log in ${log}`
    const after = replay === undefined ? where : `${where} after ${replay}`
    return size === undefined ? after : `${after}, ${formatSize(size)}`
  },
}
