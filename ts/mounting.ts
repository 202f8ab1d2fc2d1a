import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, rmdir } from 'node:fs/promises'
import type { Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { invalid, UblkError } from './errors.js'
import { identityOf } from './remote/identity.js'
import type { ServedDevice } from './served-device.js'
import { nameOf } from './user-values.js'

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

/** The program that deletes a device. */
const MAIN = fileURLToPath(new URL('cli/main.js', import.meta.url))

/** A disk with a file system, for a while: both go, whatever happens to this process. */
export class ScratchDisk implements AsyncDisposable {
  /** The disk's device. */
  readonly disk: ServedDevice
  /** Where it is mounted. */
  readonly dir: string | undefined
  readonly #fileSystem: FileSystem | undefined
  /** Whether the directory was created for it. */
  readonly #made: boolean
  readonly #guard: ChildProcess
  #gone: Promise<void> | undefined

  private constructor(disk: ServedDevice, fileSystem: FileSystem | undefined, dir?: string, made = false) {
    this.disk = disk
    this.dir = dir
    this.#fileSystem = fileSystem
    this.#made = made
    this.#guard = guardOf(disk.id, dir ?? '', made)
  }

  /**
   * Makes a file system on a new disk, and mounts it, if they are asked for. The disk is deleted if that fails.
   *
   * @throws UblkError: `invalid` for a type that is no name, `unsupported` if there is no mkfs for it, `no-permission` for users
   * who may not mount, `system` if mkfs or mount fail.
   */
  static async make(disk: ServedDevice, fileSystem?: FileSystem): Promise<ScratchDisk> {
    let scratch: ScratchDisk | undefined
    try {
      const mount = fileSystem?.mount ?? false
      const [dir, made] = mount === false ? [] : await directory(mount)
      scratch = new ScratchDisk(disk, fileSystem, dir, made)
      if (fileSystem) await makeFileSystem(disk.path, fileSystem)
      if (dir !== undefined) await scratch.#mount(dir)
      return scratch
    } catch (error) {
      await disk.delete({ force: true })
      if (scratch) await scratch.#release()
      throw error
    }
  }

  /** Unmounts it and mounts it again: what is read then comes from the disk. */
  async remount(): Promise<void> {
    const { dir } = this
    if (dir === undefined) return
    await command('umount', [dir])
    await this.#mount(dir)
  }

  async #mount(dir: string): Promise<void> {
    const { fs = '', options } = this.#fileSystem ?? {}
    await command('mount', ['-t', fs, ...(options === undefined ? [] : ['-o', options]), this.disk.path, dir])
  }

  /**
   * Unmounts the disk and deletes it, even if it is in use.
   *
   * @throws UblkError of kind `busy` if a program still has a file open there. It is deleted nevertheless.
   */
  [Symbol.asyncDispose](): Promise<void> {
    this.#gone ??= this.#dispose()
    return this.#gone
  }

  async #dispose(): Promise<void> {
    try {
      if (this.dir !== undefined) await unmount(this.dir)
    } finally {
      await this.disk.delete({ force: true })
      await this.#release()
    }
  }

  /** Nothing is left to guard. */
  async #release(): Promise<void> {
    if (this.#made && this.dir !== undefined) await rmdir(this.dir).catch(() => {}) // It is still in use.
    if (this.#guard.pid === undefined) return
    const ended = once(this.#guard, 'close')
    this.#guard.ref()
    this.#guard.stdin?.end(DONE)
    await ended
  }
}

async function makeFileSystem(path: string, { fs, mkfs = [] }: FileSystem): Promise<void> {
  if (!/^[a-z0-9][a-z0-9._-]*$/i.test(fs))
    throw invalid(`fs must be a type such as 'ext4', not ${nameOf(fs)}`)
  await command(`mkfs.${fs}`, [...(QUIET[fs] ?? []), ...mkfs, path])
}

async function unmount(dir: string): Promise<void> {
  try {
    await command('umount', [dir])
  } catch (error) {
    await command('umount', ['-l', dir]).catch(() => {}) // It is unmounted already.
    const why = error instanceof Error ? error.message : String(error)
    throw new UblkError('busy', `the file system on ${dir} was still in use: ${why}`, {
      hint: 'close what is open there first',
    })
  }
}

async function directory(mount: true | string): Promise<[path: string, made: boolean]> {
  if (mount === true) return [await mkdtemp(join(tmpdir(), 'ublk-ts-')), true]
  const made = await mkdir(mount, { recursive: true })
  return [resolve(mount), made !== undefined]
}

/** What the guard is told when nothing is left to do. */
const DONE = 'done'

/**
 * A process that waits until this one closes its pipe, or is gone however it ended. If it was not told that all is done, it unmounts
 * this disk from this directory, where others may be mounted, too, and deletes the device, unless that is gone or another one has
 * its number. It has a session of its own, so that a Ctrl-C does not reach it.
 */
function guardOf(id: number, dir: string, made: boolean): ChildProcess {
  const script = `[ "$(cat)" != ${DONE} ] || exit 0
    ! grep -qF "$7" /proc/self/mounts || umount -l "$1"
    [ "$2" = no ] || rmdir "$1"
    [ "$(stat -L -c %i "/sys/class/ublk-char/ublkc$3")" != "$4" ] || exec "$5" "$6" delete -f "$3"`
  // As the kernel writes it: a line begins with source and place.
  const mounted = `/dev/ublkb${id} ${dir.replace(/[ \t\n\\]/g, octal)} `
  const words = [dir, made ? 'yes' : 'no', `${id}`, identityOf(id) ?? 'none', process.execPath, MAIN, mounted]
  const guard = spawn('sh', ['-c', script, 'ublk-ts-guard', ...words], {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
    cwd: '/',
    env: ENVIRONMENT,
  })
  guard.on('error', () => {}) // Without a shell there is nobody to clean up after a kill.
  guard.stdin?.on('error', () => {})
  guard.unref()
  ;(guard.stdin as Socket | null)?.unref()
  return guard
}

function octal(character: string): string {
  return `\\${character.charCodeAt(0).toString(8).padStart(3, '0')}`
}

/** mkfs is not on the path of every user. Messages are in English. */
const ENVIRONMENT = { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`, LC_ALL: 'C' }

/** Runs a program. If it fails, what it says last is the error's message. */
async function command(name: string, words: readonly string[]): Promise<void> {
  const child = spawn(name, words, { stdio: ['ignore', 'ignore', 'pipe'], env: ENVIRONMENT })
  let said = ''
  child.stderr?.setEncoding('utf8').on('data', text => {
    said = `${said}${text}`.slice(-4096)
  })
  const [status, signal] = await once(child, 'close').catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error
    throw new UblkError('unsupported', `there is no program ${name}`, { hint: 'install it', cause: error })
  })
  if (status === 0) return
  const lines = said.split('\n').filter(line => /^\S/.test(line)) // Further explanations are indented.
  const why = lines.at(-1) ?? (signal === null ? `status ${status}` : `${signal}`)
  const denied = /permission denied|must be superuser|only root/i.test(why)
  throw new UblkError(denied ? 'no-permission' : 'system', `${name}: ${why.replace(`${name}: `, '')}`)
}
