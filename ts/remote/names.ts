/** Names of disks: each is a link in /dev/ublk, and in the record of its device, if that has one. */
import {
  chmodSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readlinkSync,
  rmdirSync,
  symlinkSync,
  unlinkSync,
} from 'node:fs'
import { join } from 'node:path'
import { checkId, nearest } from '../check.js'
import { NAMES, parseDevice } from '../disk-name.js'
import { UblkError } from '../errors.js'
import { identityOf, inodeOf } from './identity.js'
import { readRecord, recordedIds } from './record-file.js'

/**
 * The number of the device that is meant by its number, path or name.
 *
 * @throws UblkError: `invalid` if it is none of these, `not-found` if no disk has that name.
 */
export function idOf(device: unknown): number {
  if (typeof device !== 'string') {
    checkId(device)
    return device
  }
  const parsed = parseDevice(device)
  if (typeof parsed === 'number') return parsed
  const { name } = parsed
  const id = deviceNamed(name)
  if (id !== undefined) return id
  const near = nearest(name, allNames())
  throw new UblkError('not-found', `no disk has the name '${name}'`, {
    hint: near === undefined ? 'choose one that exists{list}' : `did you mean ${near}?`,
  })
}

/** The name of a device's disk; undefined if it has none. */
export function nameOfDevice(id: number): string | undefined {
  const found = readRecord(id)
  if (found.state === 'served' || found.state === 'dead') return nameIn(found.record.options)
  return links().find(link => link.id === id)?.name
}

/** The name that a record's options have. */
export function nameIn({ name }: { readonly [option: string]: unknown }): string | undefined {
  return typeof name === 'string' ? name : undefined
}

/** A name without a link may be of a disk that is stopped: udev removes a link with its disk. */
function deviceNamed(name: string): number | undefined {
  const linked = targetOf(name)
  if (linked !== undefined && !isAnothers(name, linked)) return linked
  return recordedIds().find(id => isRecorded(id, name))
}

/** Whether a link is left of an earlier device: the present one has another name, or none. */
function isAnothers(name: string, id: number): boolean {
  const found = readRecord(id)
  return (found.state === 'served' || found.state === 'dead') && nameIn(found.record.options) !== name
}

function isRecorded(id: number, name: string): boolean {
  const found = readRecord(id)
  return (found.state === 'served' || found.state === 'dead') && nameIn(found.record.options) === name
}

function allNames(): string[] {
  return [
    ...new Set([...links().map(({ name }) => name), ...recordedIds().flatMap(id => nameOfDevice(id) ?? [])]),
  ]
}

function links(): { name: string; id: number }[] {
  let names: string[] = []
  try {
    names = readdirSync(NAMES)
  } catch {} // No disk has a name.
  return names.flatMap(name => {
    const id = targetOf(name)
    return id === undefined ? [] : [{ name, id }]
  })
}

/** The device that a link leads to. */
function targetOf(name: string): number | undefined {
  try {
    const id = /^(?:\.\.|\/dev)\/ublkb(\d+)$/.exec(readlinkSync(join(NAMES, name)))?.[1]
    return id === undefined ? undefined : Number(id)
  } catch {
    return undefined
  }
}

/**
 * Fails if a name belongs to another device than `id`.
 *
 * @throws UblkError of kind `exists`.
 */
export function refuseTaken(name: string, id?: number): void {
  const owner = deviceNamed(name)
  if (owner !== undefined && owner !== id && identityOf(owner) !== undefined) {
    throw new UblkError('exists', `the name '${name}' is taken by device ${owner}`, {
      device: owner,
      hint: 'choose another name, or remove that device: {delete}',
    })
  }
  if (targetOf(name) === undefined && lstatSync(join(NAMES, name), { throwIfNoEntry: false })) {
    throw new UblkError('exists', `${join(NAMES, name)} exists, and is no link to a ublk disk`, {
      hint: 'choose another name',
    })
  }
}

/** How often a link is tried, while others make and remove links. */
const TRIES = 10

/** The link that is the name of a device's disk. */
export class NameLink {
  readonly #path: string
  readonly #identity: string | undefined
  #inode: string | undefined

  /**
   * Gives a device its name.
   *
   * @throws UblkError of kind `exists` if it is taken, `no-permission` or `system` if there can be no link.
   */
  constructor(
    readonly name: string,
    readonly id: number,
  ) {
    this.#path = join(NAMES, name)
    this.#identity = identityOf(id)
    this.make()
  }

  /** Makes the link, unless it is there. */
  make(): void {
    const target = `../ublkb${this.id}`
    for (let tries = TRIES; ; tries--) {
      refuseTaken(this.name, this.id)
      try {
        makeDirectory()
        if (targetOf(this.name) !== this.id) {
          removeLink(this.name) // It is stale.
          symlinkSync(target, this.#path)
        }
        this.#inode = inodeOf(this.#path)
        return
      } catch (cause) {
        const { code } = cause as NodeJS.ErrnoException
        if (tries > 0 && (code === 'EEXIST' || code === 'ENOENT')) continue // Another process was faster.
        const forbidden = ['EACCES', 'EPERM', 'EROFS'].includes(code ?? '')
        throw new UblkError(
          forbidden ? 'no-permission' : 'system',
          `cannot make the link ${this.#path}: ${code}`,
          {
            device: this.id,
            hint: forbidden ? 'only root can name disks' : undefined,
            cause,
          },
        )
      }
    }
  }

  /** Removes the link, once the device is deleted. */
  remove(): void {
    const now = identityOf(this.id)
    // Meanwhile another device may have got the number, and the same name.
    if (now !== undefined && now !== this.#identity) return
    if (inodeOf(this.#path) === this.#inode && targetOf(this.name) === this.id) removeLink(this.name)
  }

  /** The same if the device is gone. */
  removeIfGone(): void {
    if (identityOf(this.id) !== this.#identity) this.remove()
  }
}

/** The links to a device, such as it is now, so that they can be removed when it is deleted. */
export function linksTo(id: number): { remove(): void } {
  const now = links()
    .filter(link => link.id === id)
    .map(({ name }) => ({ name, inode: inodeOf(join(NAMES, name)) }))
  return {
    remove: () => {
      for (const { name, inode } of now) {
        if (inodeOf(join(NAMES, name)) === inode) removeLink(name)
      }
    },
  }
}

/** Whatever the umask says: names are for all users. */
function makeDirectory(): void {
  try {
    mkdirSync(NAMES)
    chmodSync(NAMES, 0o755)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
  }
}

/** With its directory, if that is empty then. */
function removeLink(name: string): void {
  try {
    unlinkSync(join(NAMES, name))
    rmdirSync(NAMES)
  } catch {} // udev, or another process, was faster; or there are other names.
}
