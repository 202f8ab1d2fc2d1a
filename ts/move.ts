import { closeSync, existsSync, fsyncSync, ftruncateSync, openSync, rmSync, statSync } from 'node:fs'
import { dirname } from 'node:path'
import type * as native from '#binding'
import type { FileBackend } from './backends/file.js'
import type { Described } from './backends/kind.js'
import type { NativeBackend } from './backends/list.js'
import { isScratchFile } from './backends/scratch-file.js'
import {
  checkStack,
  fillingOf,
  lastingStack,
  memoryOf,
  nodesOf,
  prepared,
  stackToRecord,
} from './backends/stack.js'
import { checkFlag, checkOptions, checkSignal } from './check.js'
import { rethrow, UblkError } from './errors.js'
import type { Json } from './json.js'
import type { LocalDevice } from './local-device.js'
import { toSpec } from './options/spec.js'
import { parseSize, type Size } from './size.js'

/** How to move a disk. */
export interface MoveOptions {
  /**
   * The most bytes to copy per second, or text such as `'50M'`.
   *
   * @defaultValue no limit
   */
  rate?: Size
  /**
   * Move to a file or a volume that has content already, which is lost. Block devices and NBD servers are always overwritten.
   *
   * @defaultValue false
   */
  overwrite?: boolean
  /** Ends it: the disk stays what it was. */
  signal?: AbortSignal
}

/** How a checked move is done. */
export interface MovePlan {
  readonly backend: Described
  readonly rate: number | undefined
  readonly overwrite: boolean
  /** The target as another process can make it. */
  recorded(): Json
}

/** Has a volume with content refused. */
const EMPTY = { empty: true }

/** What cannot hold a disk that comes from elsewhere. */
const NO_TARGETS = ['lazy', 'powercut', 'crash-state', 'null']

/**
 * Checks what a disk is to move to, and how.
 *
 * @throws UblkError of kind `invalid`.
 */
export function checkMove(target: unknown, options: unknown): MovePlan {
  checkOptions<MoveOptions>(options, 'move()', { rate: true, overwrite: true, signal: true })
  checkSignal(options.signal)
  checkFlag(options.overwrite, 'overwrite')
  const backend = checkStack(target)
  const wrong = nodesOf(backend).find(({ kind }) => NO_TARGETS.includes(kind.name))
  if (wrong || fillingOf(backend)) {
    throw new UblkError('invalid', `a disk cannot move to one of kind ${wrong?.kind.name ?? 'lazy'}`, {
      hint: "it can move to file('disk.img'), memory(size) or nbd(uri)",
    })
  }
  const { rate, overwrite = false } = options
  const limit = rate === undefined ? undefined : Math.max(parseSize(rate, 'rate'), 1)
  return { backend, rate: limit, overwrite, recorded: () => stackToRecord(backend) }
}

/**
 * Moves a disk of this process.
 *
 * @throws UblkError; the disk is as before then.
 */
export async function moveHere(
  local: LocalDevice,
  { backend, rate, overwrite }: Omit<MovePlan, 'recorded'>,
  cancel: native.Cancel,
): Promise<void> {
  const id = local.device.id
  if (local.server) {
    throw new UblkError('unsupported', 'a disk written in JavaScript cannot be moved', {
      device: id,
      hint: 'only disks that native threads serve can',
    })
  }
  const { size, maxIo } = await local.device.info().catch(rethrow)
  const [scratch, made] = [[] as string[], [] as string[]]
  const { recoverable } = local
  // Another server could not find it in the memory of this one.
  const target = recoverable ? lastingStack(backend, path => scratch.push(path)) : backend
  const before = local.backend
  try {
    if (target.kind === 'file') makeRoom((target as FileBackend).path, size, overwrite, made)
    const opened = await prepared(target as NativeBackend, new AbortController().signal)
    const { backend: described, ...wishes } = toSpec({
      backend: opened.kind === 's3' && !overwrite ? { ...opened, ...EMPTY } : opened,
      maxIo,
      ...(recoverable ? { recovery: 'reissue' as const } : {}),
    })
    const spec = { backend: described, options: wishes }
    await local.move(target as NativeBackend, spec, rate, scratch, cancel).catch(rethrow)
  } catch (error) {
    for (const path of [...made, ...scratch]) rmSync(path, { force: true })
    if (target.kind !== 's3' || !(error instanceof UblkError) || error.kind !== 'exists') throw error
    throw new UblkError('exists', error.message, {
      cause: error,
      hint: 'choose another volume, or have it overwritten{overwrite}',
    })
  }
  for (const file of memoryOf(before)) if (isScratchFile(file)) rmSync(file, { force: true })
}

/** Makes a file that is long enough. One with content is refused. */
function makeRoom(path: string, size: number, overwrite: boolean, made: string[]): void {
  const failed = (cause: unknown): UblkError =>
    new UblkError('backend', `cannot make ${path}: ${(cause as Error).message}`, { cause })
  try {
    if (!existsSync(path)) {
      const fd = openSync(path, 'wx', 0o600)
      made.push(path)
      setLength(fd, size)
      sync(dirname(path))
      return
    }
    const found = statSync(path)
    if (!found.isFile()) return
    if (found.size > 0 && !overwrite) {
      throw new UblkError('exists', `${path} has content already`, {
        hint: 'choose another file, or have it overwritten{overwrite}',
      })
    }
    if (found.size < size) setLength(openSync(path, 'r+'), size)
  } catch (error) {
    throw error instanceof UblkError ? error : failed(error)
  }
}

function setLength(fd: number, size: number): void {
  try {
    ftruncateSync(fd, size)
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}

function sync(directory: string): void {
  const fd = openSync(directory, 'r')
  try {
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}
