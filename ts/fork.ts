import { existsSync } from 'node:fs'
import { basename, dirname, resolve } from 'node:path'
import * as native from '#binding'
import type { LazyBackend } from './backends/lazy.js'
import { type BaseBackend, type OverlayBackend, overlay } from './backends/overlay.js'
import { isScratchFile } from './backends/scratch-file.js'
import { nodesOf } from './backends/stack.js'
import { checkOptions } from './check.js'
import { invalid, UblkError, wrongType } from './errors.js'
import { pathOf } from './path.js'
import { overlayOf } from './remote/record-file.js'
import { nameOf } from './user-values.js'

/** What the disk of a fork is made of. */
export interface ForkOptions {
  /** The file for what is written to it, in the directory of the forked disk's upper. It must not exist. */
  upper: string | URL
  /**
   * The name of the snapshot that both disks are over, as of {@link UblkDevice.snapshot}.
   *
   * @defaultValue the name of the new upper
   */
  name?: string
}

/** A fork that is possible: the snapshot that it needs, and its disk once that is made. */
export interface Fork {
  readonly name: string
  readonly backend: OverlayBackend
}

/**
 * Checks what is wanted of a fork before anything is changed.
 *
 * @param described - The backend of the disk that is forked.
 * @throws UblkError.
 */
export function planFork(device: number, described: unknown, options: unknown): Fork {
  checkOptions<ForkOptions>(options, 'fork()', { upper: true, name: true })
  const upper = resolve(pathOf(options.upper, 'the path of the upper'))
  const { name = basename(upper) } = options
  if (typeof name !== 'string') {
    throw wrongType(`the name of a snapshot must be text, not ${nameOf(name)}`, "such as 'golden'")
  }
  const own = overlayOf(described)
  const from = own?.['upper']
  if (typeof from !== 'string' || isScratchFile(from)) {
    throw new UblkError('unsupported', 'this disk cannot be forked', {
      device,
      hint: 'an overlay with an upper in a file can',
    })
  }
  const dir = dirname(resolve(from))
  if (dirname(upper) !== dir) {
    throw invalid(`${upper} is not in the directory of the disk's upper`, `name a file in ${dir}`)
  }
  if (existsSync(upper)) {
    throw new UblkError('exists', `${upper} exists already`, { hint: 'name a file that does not exist yet' })
  }
  refuseCacheOfOne(device, own?.['base'], from)
  const snapshot = `${resolve(from)}.${name}`
  return { name, backend: overlay(own?.['base'] as BaseBackend | null, { upper, snapshot }) }
}

/** The cache of a lazy base serves one disk at a time, so a fork could not be served. */
function refuseCacheOfOne(device: number, base: unknown, upper: string): void {
  const cache = nodesOf(base)
    .map(({ backend, kind }) => (kind.name === 'lazy' ? (backend as Partial<LazyBackend>).cache : undefined))
    .find(cache => cache !== undefined)
  if (cache === undefined || !native.upperNeedsBase(upper)) return
  throw new UblkError('unsupported', `this disk cannot be forked: its base has the cache ${cache}`, {
    device,
    hint: 'a cache serves one disk at a time: flatten the disk before, or make an image of the base',
  })
}
