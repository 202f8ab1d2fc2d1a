import { realpathSync } from 'node:fs'
import { mkdir, mkdtemp, rmdir } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { NativeBackend } from '../backends/list.js'
import { planOf, rulesIn, withoutRules } from '../disk-faults.js'
import { invalid, UblkError, wrongType } from '../errors.js'
import { features, UblkDevice } from '../index.js'
import type { CreateOptions } from '../options/device-options.js'
import type { ServedDevice } from '../served-device.js'
import { nameOf } from '../user-values.js'
import { Guard } from './guard.js'
import { Mount } from './mount.js'
import { command } from './program.js'

/** The file system to make on a disk, and where to mount it. */
export interface FileSystem {
  /** Its type, such as `ext4`: `mkfs.ext4` makes it. */
  readonly fs: string
  /** Further arguments for mkfs. */
  readonly mkfs?: readonly string[] | undefined
  /** Whether to mount it: `true` for a new directory, or the directory, which is created if it does not exist. */
  readonly mount?: boolean | string | undefined
  /** Options for mount(8), such as `'noatime,data=journal'`. */
  readonly options?: string | undefined
}

/** What keeps mkfs from talking. */
const QUIET: Readonly<Record<string, readonly string[]>> = {
  ext2: ['-q'],
  ext3: ['-q'],
  ext4: ['-q'],
  xfs: ['-q'],
  btrfs: ['-q'],
  f2fs: ['-q'],
}

/** How long umount tries again while programs close their files, in milliseconds. */
const BUSY = 1000

/** If the disk answers no request for this number of milliseconds, umount is given up. */
const STALLED = 10_000

/** A disk with a file system, for a while: both go, whatever happens to this process. */
export class ScratchDisk implements AsyncDisposable {
  /** The disk's device. */
  readonly disk: ServedDevice
  readonly #fileSystem: FileSystem | undefined
  readonly #signal: AbortSignal | undefined
  readonly #place: Place | undefined
  readonly #mounted: Mount | undefined
  readonly #guard: Guard
  #deleted: Promise<void> | undefined
  #gone: Promise<void> | undefined

  private constructor(disk: ServedDevice, fileSystem?: FileSystem, place?: Place, signal?: AbortSignal) {
    this.disk = disk
    this.#fileSystem = fileSystem
    this.#signal = signal
    this.#place = place
    this.#mounted = place && new Mount(disk, realpathSync(place.dir))
    this.#guard = new Guard(disk.id, this.#mounted, place?.created ?? [])
  }

  /** Where it is mounted. */
  get dir(): string | undefined {
    return this.#place?.dir
  }

  /**
   * Creates a disk, makes a file system on it, and mounts it, if they are asked for. The rules of a disk with faults are applied
   * after that. If anything fails, nothing is left.
   *
   * @param signal - Ends the creation; after it, the wait for umount.
   * @throws UblkError as {@link UblkDevice.create}: `invalid` for a file system that makes no sense, `unsupported` if there is no
   * mkfs for it, `no-permission` for users who may not mount, `system` if mkfs or mount fail.
   * @throws the signal's reason if it was aborted.
   */
  static async create(
    options: CreateOptions,
    fileSystem?: FileSystem,
    signal?: AbortSignal,
  ): Promise<ScratchDisk> {
    if (fileSystem) check(fileSystem)
    const plan = planOf(options.backend)
    const disk = await UblkDevice.create({
      ...(plan && fileSystem ? without(options) : options),
      ...(plan && options.partitionScan === undefined && (await canSkipScan()) && { partitionScan: false }),
      ...(signal && { signal }),
    })
    let place: Place | undefined
    let scratch: ScratchDisk | undefined
    try {
      place = await placeFor(fileSystem?.mount ?? false)
      scratch = new ScratchDisk(disk, fileSystem, place, signal)
      if (fileSystem) await scratch.#make(fileSystem)
      if (plan && fileSystem) await disk.faults.set(plan)
      return scratch
    } catch (error) {
      // The first failure is the one to report.
      if (scratch) await scratch[Symbol.asyncDispose]().catch(() => {})
      else {
        await disk.delete({ force: true }).catch(() => {})
        if (place) await remove(place.created)
      }
      throw error
    }
  }

  async #make({ fs, mkfs = [] }: FileSystem): Promise<void> {
    const words = [...(QUIET[fs] ?? []), ...mkfs, this.disk.path]
    await command(`mkfs.${fs}`, words, this.#signal)
    if (this.dir === undefined) return
    await this.#mount(this.dir)
    await command('sync', ['-f', this.dir], this.#signal)
  }

  /** Unmounts it and mounts it again: what is read then comes from the disk. */
  async remount(): Promise<void> {
    const { dir } = this
    if (dir === undefined) return
    if (this.#mounted?.isOnTop()) await command('umount', [dir])
    await this.#mount(dir)
  }

  async #mount(dir: string): Promise<void> {
    const { fs = '', options } = this.#fileSystem ?? {}
    const words = ['-t', fs, ...(options === undefined ? [] : ['-o', options]), this.disk.path, dir]
    await command('mount', words, this.#signal)
  }

  /**
   * Removes the disk's rules for faults, unmounts it, and deletes it, even if it is in use. What is mounted on the directory
   * otherwise stays.
   *
   * @throws UblkError of kind `busy` if a program still has a file open there, `timeout` if the disk answers no requests. It is
   * deleted nevertheless.
   */
  [Symbol.asyncDispose](): Promise<void> {
    this.#gone ??= this.#dispose()
    return this.#gone
  }

  async #dispose(): Promise<void> {
    try {
      await this.#calm()
      if (this.#mounted) await this.#unmount(this.#mounted)
    } finally {
      await this.#delete()
      const nothingIsLeft = !this.#mounted?.isOnTop()
      if (nothingIsLeft && this.#place) await remove(this.#place.created)
      await this.#guard.release(nothingIsLeft)
    }
  }

  /** Otherwise what hangs or fails would keep it from being unmounted. */
  async #calm(): Promise<void> {
    await this.disk.faults.clear().catch(() => {}) // It has none.
    await this.disk.faults.thaw().catch(() => {})
  }

  #delete(): Promise<void> {
    this.#deleted ??= this.disk.delete({ force: true })
    return this.#deleted
  }

  async #unmount(mounted: Mount): Promise<void> {
    const { dir } = mounted
    const end = performance.now() + BUSY
    while (mounted.exists()) {
      if (!mounted.isOnTop()) throw new UblkError('busy', `something else is mounted on ${dir}`)
      const failure = await this.#unmounting(dir)
      if (failure === undefined) return
      const busy = /busy/i.test(failure.message)
      if (busy && performance.now() < end) {
        await sleep(100)
        continue
      }
      if (mounted.isOnTop()) await command('umount', ['-l', dir]).catch(() => {}) // The deletion matters more.
      if (!busy) throw failure
      throw new UblkError('busy', `the file system on ${dir} was still in use: ${failure.message}`, {
        hint: 'close what is open there first',
      })
    }
  }

  /** Why umount failed; undefined if it did not. If the disk answers nothing, it is deleted first. */
  async #unmounting(dir: string): Promise<Error | undefined> {
    const done = new AbortController()
    const ended = command('umount', [dir], done.signal).then(
      () => undefined,
      (error: Error) => error,
    )
    const stalled = await Promise.race([ended.then(() => false), this.#stalls(done.signal)])
    if (stalled) {
      await this.#delete()
      await Promise.race([ended, sleep(BUSY, undefined, { ref: false })]) // Without the disk, its requests fail.
    }
    done.abort()
    if (!stalled) return await ended
    return new UblkError('timeout', `umount of ${dir} did not end, so the disk was deleted first`, {
      device: this.disk.id,
    })
  }

  /** Resolves with true when the disk answers no requests any more, or when a signal ends the wait. */
  async #stalls(done: AbortSignal): Promise<boolean> {
    let [answered, since] = [-1, performance.now()]
    while (!done.aborted) {
      const now = answeredBy(this.disk)
      if (now !== answered) [answered, since] = [now, performance.now()]
      if (this.#signal?.aborted || performance.now() - since > STALLED) return true
      await sleep(100)
      await this.disk.faults.thaw().catch(() => {}) // It has no rules.
    }
    return false
  }
}

/** How many requests a disk has answered. */
function answeredBy(disk: ServedDevice): number {
  try {
    const queues = disk.stats()
    return queues
      .flatMap(({ read, write, flush, discard, writeZeroes }) => [read, write, flush, discard, writeZeroes])
      .reduce((sum, { ops }) => sum + ops, 0)
  } catch {
    return 0 // It is deleted already.
  }
}

/** Whether the kernel can be told not to look for partitions: newer ones do so while the disk is usable, and rules are applied. */
async function canSkipScan(): Promise<boolean> {
  return (await features()).some(({ name, supported }) => name === 'NO_AUTO_PART_SCAN' && supported)
}

/** The same options without rules for faults, so that these can be set later. */
function without(options: CreateOptions): CreateOptions {
  const corrupts = rulesIn(options.backend).some(({ corrupt }) => corrupt !== undefined)
  const { copy = 'auto' } = options
  return {
    ...options,
    backend: withoutRules(options.backend as NativeBackend),
    ...(corrupts && copy === 'auto' ? { copy: 'copy' } : {}),
  } as CreateOptions
}

function check({ fs, mkfs, options }: FileSystem): void {
  if (typeof fs !== 'string' || !/^[a-z0-9][a-z0-9._-]*$/i.test(fs)) {
    throw invalid(`fs must be a type such as 'ext4', not ${nameOf(fs)}`)
  }
  if (mkfs !== undefined && !(Array.isArray(mkfs) && mkfs.every(word => typeof word === 'string'))) {
    throw wrongType(`mkfs must be a list of arguments, not ${nameOf(mkfs)}`, "such as ['-L', 'data']")
  }
  if (options !== undefined && typeof options !== 'string') {
    throw wrongType(`mountOptions must be text such as 'noatime', not ${nameOf(options)}`)
  }
}

/** A directory to mount on. */
interface Place {
  readonly dir: string
  /** The directories that were created for it, the innermost first. */
  readonly created: readonly string[]
}

async function placeFor(mount: boolean | string): Promise<Place | undefined> {
  if (mount === false) return undefined
  if (mount === true) {
    const dir = await mkdtemp(join(tmpdir(), 'ublk-ts-'))
    return { dir, created: [dir] }
  }
  const dir = resolve(mount)
  const first = await mkdir(dir, { recursive: true }).catch((cause: NodeJS.ErrnoException) => {
    const why = cause.code === 'EEXIST' || cause.code === 'ENOTDIR' ? 'it is not a directory' : cause.message
    throw new UblkError('system', `cannot mount on ${dir}: ${why}`, { cause })
  })
  const created: string[] = []
  for (let at = dir; first !== undefined; at = dirname(at)) {
    created.push(at)
    if (at === first) break
  }
  return { dir, created }
}

/** Removes directories, unless somebody has put something in them. */
async function remove(created: readonly string[]): Promise<void> {
  for (const dir of created) await rmdir(dir).catch(() => {})
}
