/**
 * Disks for tests, under any test runner: import `tmpDisk` from `ublk-ts/testing`.
 *
 * @module ublk-ts/testing
 */
import { checkFlag, checkOptions } from '../check.js'
import { planOf } from '../disk-faults.js'
import { invalid, wrap } from '../errors.js'
import {
  type BaseBackend,
  type CreateOptions,
  type DiskFaults,
  type FaultPlan,
  type FaultRule,
  faults,
  features,
  memory,
  type NativeBackend,
  type PowercutOptions,
  powercut,
  type ServedDevice,
  type Size,
  type UblkDevice,
} from '../index.js'
import { type FileSystem, ScratchDisk } from '../mounting/scratch-disk.js'
import { nameOf } from '../user-values.js'
import { onSignal } from './on-signal.js'

export {
  checkLinearizable,
  LinearizabilityError,
  type LinearizableOptions,
  type LinearizableReport,
} from './linearizable/check-linearizable.js'
export { type BlockValue, checkHistory, type DiskOperation, type Violation } from './linearizable/history.js'

/** What to do where no disk can be made: fail, or skip the test, with the reason on stderr. */
export type OnMissing = 'fail' | 'skip'

/** What disk a test needs. */
export interface TmpDiskOptions {
  /** The size of a disk in memory. */
  size?: Size | undefined
  /** Instead of `size`: the backend. */
  backend?: NativeBackend | undefined
  /**
   * What goes wrong: rules for {@link faults}. They count from 0 when the file system is made and mounted: making it does not
   * fail. With an empty list, rules can be set later.
   */
  faults?: readonly FaultRule[] | FaultPlan | undefined
  /**
   * Record what is written, so that the power can be cut: `true`, or options of {@link powercut}. The disk is then `size` large, or
   * begins with `backend`, which stays as it is.
   */
  powercut?: true | Omit<PowercutOptions, 'size' | 'over' | 'replay'> | undefined
  /** Make a file system of this type, such as `'ext4'`. */
  fs?: string | undefined
  /** Further arguments for mkfs. */
  mkfs?: readonly string[] | undefined
  /** Whether to mount it: `true` for a new directory, or the directory. */
  mount?: boolean | string | undefined
  /** Options for mount(8), such as `'noatime'`. */
  mountOptions?: string | undefined
  /** Further options of {@link UblkDevice.create}. */
  device?: Omit<CreateOptions, 'backend'> | undefined
  /**
   * What to do where no disk can be made, since the kernel has no ublk driver, or the user may not use it. `'fail'`: the promise
   * rejects; `'skip'`: the reason is written to stderr, and the promise resolves with undefined. Default: `'fail'`, so that tests
   * are not skipped unnoticed.
   */
  onMissing?: OnMissing | undefined
}

/** A disk that is gone, with its mount, at the end of a test: see {@link tmpDisk}. */
export class TmpDisk implements AsyncDisposable {
  readonly #scratch: ScratchDisk
  readonly #forget: () => void

  /** @internal */
  constructor(scratch: ScratchDisk, hasRules: boolean) {
    this.#scratch = scratch
    this.#forget = hasRules ? onSignal(this) : () => {}
  }

  /** The disk's device. */
  get disk(): ServedDevice {
    return this.#scratch.disk
  }

  /** The disk, such as `/dev/ublkb0`. */
  get path(): string {
    return this.disk.path
  }

  /**
   * Where it is mounted.
   *
   * @throws UblkError of kind `invalid` if it is not mounted.
   */
  get dir(): string {
    const { dir } = this.#scratch
    if (dir !== undefined) return dir
    throw invalid('the disk is not mounted', "mount it: tmpDisk({ size, fs: 'ext4', mount: true })")
  }

  /** The rules of a disk that was made with `faults`. */
  get faults(): DiskFaults {
    return this.disk.faults
  }

  /** Unmounts it and mounts it again: what is read then comes from the disk. */
  async remount(): Promise<void> {
    void this.dir
    await this.#scratch.remount()
  }

  /**
   * Removes its rules for faults, unmounts it, and deletes it, even if it is in use.
   *
   * @throws UblkError of kind `busy` if a program still had a file of it open, `timeout` if it answered no requests; it is deleted
   * nevertheless.
   */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.#scratch[Symbol.asyncDispose]()
    } finally {
      this.#forget()
    }
  }
}

/**
 * Makes a disk for a test: in memory, or of any backend; with rules for faults, a file system and a mount, as asked for. It is
 * disposed of at the end of the block, whatever fails. If the process ends before, however it does, the disk is gone and a
 * process of its own unmounts what is mounted. Each disk has a directory of its own, so tests can run side by side.
 *
 * Making and mounting file systems needs root, and mkfs.
 *
 * The disk is served by the process of the test. While one of its threads waits for a request that hangs, such as in fsync, the
 * process does not end even if it is killed with SIGKILL, and neither does the request: thaw the disk first. Use the disk with the
 * asynchronous functions of `node:fs`, or from another process: a synchronous one stops the thread that could thaw it. On SIGINT,
 * SIGTERM and SIGHUP, disks with faults are disposed of before the process ends.
 *
 * @throws UblkError as {@link UblkDevice.create}; `no-driver`, `no-permission` or `no-io-uring` where no disk can be made, unless
 * `onMissing` is `'skip'`; `unsupported` if there is no mkfs, `system` if mkfs or mount fail. Nothing is left then.
 *
 * @example
 * ```ts
 * test('a full disk loses nothing', async () => {
 *   await using disk = await tmpDisk({ size: '64M', fs: 'ext4', mount: true, faults: [] })
 *   const store = await Store.open(disk.dir)
 *   await disk.faults.set([{ op: 'write', errno: 'ENOSPC' }])
 *   await assert.rejects(store.put('key', 'value'))
 * })
 * ```
 */
export async function tmpDisk(options: TmpDiskOptions & { onMissing: 'skip' }): Promise<TmpDisk | undefined>
export async function tmpDisk(options: TmpDiskOptions & { onMissing?: 'fail' | undefined }): Promise<TmpDisk>
export async function tmpDisk(options: TmpDiskOptions): Promise<TmpDisk | undefined>
export async function tmpDisk(options: TmpDiskOptions): Promise<TmpDisk | undefined> {
  const { backend, fileSystem } = check(options)
  if ((await missing(options.onMissing)) !== undefined) return undefined
  try {
    const scratch = await ScratchDisk.create({ ...options.device, backend }, fileSystem)
    return new TmpDisk(scratch, planOf(backend) !== undefined)
  } catch (error) {
    reasonToSkip(error, options.onMissing) // A user who may use the driver may not be allowed to mount.
    return undefined
  }
}

/**
 * Why no disk can be made here; undefined if they can. For test runners that decide before a test begins whether it is skipped.
 *
 * @param onMissing - `'fail'`: the promise rejects with the reason; `'skip'`: it is also written to stderr, once. Default: `'fail'`.
 * @throws UblkError of kind `no-driver`, `no-permission` or `no-io-uring`.
 *
 * @example
 * ```ts
 * const skip = await missing('skip')
 * test('the disk …', { skip }, async () => { … }) // node:test
 * ```
 */
export async function missing(onMissing: OnMissing = 'fail'): Promise<string | undefined> {
  if (onMissing !== 'fail' && onMissing !== 'skip') {
    throw invalid(`onMissing must be 'fail' or 'skip', not ${nameOf(onMissing)}`)
  }
  try {
    await features()
    return undefined
  } catch (error) {
    return reasonToSkip(error, onMissing)
  }
}

/** Why no disk can be made, on stderr, too; throws the error if it is no reason to skip a test. */
function reasonToSkip(error: unknown, onMissing: OnMissing | undefined): string {
  const { kind, message, hint } = wrap(error)
  if (onMissing !== 'skip' || !['no-driver', 'no-permission', 'no-io-uring'].includes(kind)) throw error
  const reason = hint === undefined ? message : `${message}; ${hint}`
  if (!told) process.stderr.write(`ublk-ts: SKIPPED, no disk can be made here: ${reason}\n`)
  told = true
  return reason
}

let told = false

function check(options: TmpDiskOptions): {
  backend: NativeBackend
  fileSystem: FileSystem | undefined
} {
  checkOptions<TmpDiskOptions>(options, 'tmpDisk()', {
    size: true,
    backend: true,
    faults: true,
    powercut: true,
    fs: true,
    mkfs: true,
    mount: true,
    mountOptions: true,
    device: true,
    onMissing: true,
  })
  const { size, backend, fs, mkfs, mount = false, mountOptions } = options
  if ((size === undefined) === (backend === undefined)) {
    throw invalid('tmpDisk() needs a size or a backend', "such as tmpDisk({ size: '64M' })")
  }
  if (typeof mount !== 'string') checkFlag(mount, 'mount')
  if (fs === undefined && (mount !== false || mkfs !== undefined || mountOptions !== undefined)) {
    throw invalid('a disk without a file system cannot be mounted', "name one: fs: 'ext4'")
  }
  const power = options.powercut === true ? {} : options.powercut
  const begins = backend === undefined ? { size: size as Size } : { over: backend as BaseBackend }
  const disk = power === undefined ? (backend ?? memory(size as Size)) : powercut({ ...power, ...begins })
  return {
    backend: options.faults === undefined ? disk : faults(disk, options.faults),
    fileSystem: fs === undefined ? undefined : { fs, mkfs, mount, options: mountOptions },
  }
}
