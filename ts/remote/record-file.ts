import { existsSync, linkSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { FileOfDisk } from '#binding'
import type { ServingChoice } from '../choice.js'
import type { Json } from '../json.js'
import { bootId, identityOf, inodeOf, markOf, type ProcessMark, runs } from './identity.js'
import { PrivateFileError, readPrivate, replaceFile, SPARE } from './private-file.js'
import { openRunDir, trustedRunDir } from './run-dir.js'

/** The version of records that this program writes. One that changes what a field means has another. */
export const VERSION = 1

/** No process: none has this number. */
export const NOBODY: ProcessMark = { pid: 0, started: 0 }

/** A device's options as a record keeps them: all but what JSON cannot say. */
export type RecordedOptions = { backend: Json } & { [key: string]: Json }

/** What is kept about a device while it exists, so that other processes find its server, or can follow it. */
export interface DeviceRecord {
  readonly version: typeof VERSION
  /** The version of the package that wrote it. */
  readonly package: string
  /** The boot of the machine in which it was written. */
  readonly boot: string
  /** The device's number. */
  readonly id: number
  /** Tells the device from others that had its number. */
  readonly identity: string
  /** Its present or last server. {@link NOBODY} if its last server has released it, and may still run. */
  readonly server: ProcessMark
  /** The inode of its server's control socket. */
  readonly socket: string
  /** When the device was created. */
  readonly created: string
  /** Its transport and copy mode, and why they were chosen. Missing in records of earlier versions. */
  readonly choice?: ServingChoice | undefined
  /** The identity of the files that hold its disk's data. Missing in records of earlier versions. */
  readonly files?: readonly FileOfDisk[] | undefined
  /** The path of its server's log. */
  readonly log: string | null
  /** Files to remove together with the device. */
  readonly scratch: readonly string[]
  /** Any further data for the next server. */
  readonly notes: { readonly [key: string]: Json }
  /** The options from which the device can be created again. */
  readonly options: RecordedOptions
}

/** What is found where a device's record should be. */
export type Found =
  /** Nothing. */
  | { readonly state: 'none' }
  /** Something that is no record. */
  | { readonly state: 'corrupt'; readonly why: string }
  /** A record of a later version of this program. */
  | { readonly state: 'newer'; readonly why: string }
  /** One from an earlier boot: its device does not exist any more. */
  | { readonly state: 'other-boot'; readonly record: DeviceRecord }
  /** One of a device that was deleted; another device may have its number. */
  | { readonly state: 'other-device'; readonly record: DeviceRecord }
  /** The device exists, and its server has ended. */
  | { readonly state: 'dead'; readonly record: DeviceRecord }
  /** The device exists, and its server runs. */
  | { readonly state: 'served'; readonly record: DeviceRecord }

/**
 * Replaces a device's record atomically. Space for the next one stays reserved, in case the directory is full by then.
 */
export function writeRecord(record: DeviceRecord): void {
  replaceFile(join(openRunDir(), `${record.id}.json`), `${JSON.stringify(record, undefined, 2)}\n`)
}

/** Reads a device's record, and checks whether it is still valid. */
export function readRecord(id: number): Found {
  const dir = trustedRunDir()
  return dir === undefined ? { state: 'none' } : load(join(dir, `${id}.json`), id)
}

/** The transport and copy mode in a device's record, if it is valid and has them. */
export function readChoice(id: number): ServingChoice | undefined {
  const found = readRecord(id)
  return found.state === 'served' || found.state === 'dead' ? found.record.choice : undefined
}

/** Whether a device's record says that its disk is lazy, or has a lazy one below it. */
export function isLazy(id: number): boolean {
  const found = readRecord(id)
  const record = found.state === 'served' || found.state === 'dead' ? found.record : undefined
  return hasKind(record?.options.backend, 'lazy')
}

/** The backend in a device's record, if it is valid. */
export function readBackend(id: number): Json | undefined {
  const found = readRecord(id)
  return found.state === 'served' || found.state === 'dead' ? found.record.options.backend : undefined
}

/** Whether a device's record says that an NBD server has its disk, or a part of it. */
export function hasNbd(id: number): boolean {
  return hasKind(readBackend(id), 'nbd')
}

/** Whether a device's record says that an object store has its disk, or a part of it. */
export function hasVolume(id: number): boolean {
  return hasKind(readBackend(id), 's3')
}

/** Whether a device's record says that its disk has rules for faults. */
export function hasFaults(id: number): boolean {
  return hasKind(readBackend(id), 'faults')
}

/** Whether a device's record says that its disk is an overlay. */
export function isOverlay(id: number): boolean {
  return overlayOf(readBackend(id)) !== undefined
}

/** The file of the upper that a device's record names, if its disk is an overlay. */
export function upperOf(id: number): unknown {
  return overlayOf(readBackend(id))?.['upper']
}

/** The overlay that a disk is, or that a record of its changes is kept of. */
export function overlayOf(backend: unknown): { readonly [field: string]: unknown } | undefined {
  if (typeof backend !== 'object' || backend === null) return undefined
  const described = backend as { readonly [field: string]: unknown }
  if (described['kind'] === 'tracked') return overlayOf(described['disk'])
  return described['kind'] === 'overlay' ? described : undefined
}

/** Whether a backend is of a kind, or one that it consists of. */
function hasKind(backend: unknown, kind: string): boolean {
  if (typeof backend !== 'object' || backend === null) return false
  if ((backend as { kind?: unknown }).kind === kind) return true
  return Object.values(backend).some(each => hasKind(each, kind))
}

/** The files that a device's disk was created from, if it has a valid record that names them. */
export function readFiles(id: number): FileOfDisk[] | undefined {
  const found = readRecord(id)
  const files = found.state === 'served' || found.state === 'dead' ? found.record.files : undefined
  return files && [...files]
}

/** The numbers of the devices that have a record, valid or not. */
export function recordedIds(): number[] {
  const dir = trustedRunDir()
  if (dir === undefined) return []
  const ids = readdirSync(dir).map(name => /^(\d+)\.json$/.exec(name)?.[1])
  return ids
    .filter(id => id !== undefined)
    .map(Number)
    .sort((a, b) => a - b)
}

/**
 * Removes a device's record, its server's socket and its scratch files, if it is one that `unwanted` holds for.
 * Another's, written meanwhile under the same number, stays. Whether it did.
 */
export function removeRecord(id: number, unwanted: (found: Found) => boolean): boolean {
  const dir = trustedRunDir()
  if (dir === undefined) return false
  const path = join(dir, `${id}.json`)
  if (!unwanted(load(path, id))) return false
  const away = `${path}.${process.pid}`
  try {
    renameSync(path, away)
  } catch {
    return false // Another process was faster.
  }
  const found = load(away, id)
  const remove = unwanted(found)
  if (!remove) giveBack(away, path)
  else removeWhatGoesWith(found, join(dir, `${id}.sock`))
  rmSync(away, { force: true, recursive: true }) // it may even be a directory
  if (!remove) return false
  rmSync(path + SPARE, { force: true })
  removeUnfinished(dir, id)
  return true
}

/** What processes left that were killed when they were about to put it in its place. */
function removeUnfinished(dir: string, id: number): void {
  for (const name of readdirSync(dir)) {
    const [, number, pid] = /^(\d+)\.(?:json|sock)\.(\d+)$/.exec(name) ?? []
    if (Number(number) === id && !markOf(Number(pid)))
      rmSync(join(dir, name), { force: true, recursive: true })
  }
}

/** If the record cannot be used, the socket is removed as well when there is no such device. */
function removeWhatGoesWith(found: Found, path: string): void {
  if (!('record' in found)) {
    rmSync(path, { force: true })
    return
  }
  const { socket, scratch } = found.record
  if (inodeOf(path) === socket) rmSync(path, { force: true })
  for (const file of scratch) rmSync(file, { force: true })
}

/**
 * Removes the record of a device that has just been deleted, or of earlier ones with its number. Returns whether there was
 * one.
 *
 * @param identity - Of the device that was deleted, if there was one: it may linger until its last user has gone.
 */
export function removeStale(id: number, identity: string | undefined): boolean {
  return removeRecord(id, found => {
    if (found.state === 'none') return false
    // Whose it is cannot be told; not another device's, if there is none.
    if (!('record' in found)) return identityOf(id) === undefined
    return isStale(found) || found.record.identity === identity
  })
}

/** Whether its device does not exist any more. */
export function isStale({ state }: Found): boolean {
  return state === 'other-boot' || state === 'other-device'
}

/** Unless there is a newer one by now. A hard link may be refused if the file system is full. */
function giveBack(away: string, path: string): void {
  try {
    linkSync(away, path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST' && !existsSync(path)) renameSync(away, path)
  }
}

function load(path: string, id: number): Found {
  try {
    const text = readPrivate(path)
    return text === undefined ? { state: 'none' } : judge(text, id)
  } catch (error) {
    if (error instanceof PrivateFileError) return { state: 'corrupt', why: error.message }
    throw error
  }
}

/** Checks whether a record's text is valid, now and on this machine. */
export function judge(text: string, id: number): Found {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return { state: 'corrupt', why: text.trimEnd().endsWith('}') ? 'it is not JSON' : 'it is truncated' }
  }
  const { version, package: written } = (value ?? {}) as Partial<Record<keyof DeviceRecord, unknown>>
  if (typeof version === 'number' && version > VERSION) {
    return { state: 'newer', why: `it has version ${version}, from ublk-ts ${written}` }
  }
  const wrong = whatIsWrong(value, id)
  if (wrong !== undefined) return { state: 'corrupt', why: `its ${wrong} is wrong` }
  const record = value as DeviceRecord
  if (record.boot !== bootId()) return { state: 'other-boot', record }
  if (record.identity !== identityOf(id)) return { state: 'other-device', record }
  return { state: runs(record.server) ? 'served' : 'dead', record }
}

const CHOICE: readonly (keyof ServingChoice)[] = ['transport', 'transportBecause', 'copy', 'copyBecause']

const FILE: readonly (keyof FileOfDisk)[] = ['role', 'path', 'mark']

/** The first field that is not as it was written. */
function whatIsWrong(value: unknown, id: number): keyof DeviceRecord | undefined {
  const isObject = (value: unknown): value is Record<string, unknown> =>
    typeof value === 'object' && value !== null && !Array.isArray(value)
  const isText = (value: unknown): value is string => typeof value === 'string'
  const right: Record<keyof DeviceRecord, (value: unknown) => boolean> = {
    version: value => value === VERSION,
    package: isText,
    boot: isText,
    id: value => value === id,
    identity: isText,
    socket: isText,
    server: value => isObject(value) && Number.isInteger(value['pid']) && Number.isInteger(value['started']),
    created: isText,
    choice: value => value === undefined || (isObject(value) && CHOICE.every(key => isText(value[key]))),
    files: value =>
      value === undefined ||
      (Array.isArray(value) && value.every(file => isObject(file) && FILE.every(key => isText(file[key])))),
    log: value => value === null || isText(value),
    scratch: value => Array.isArray(value) && value.every(isText),
    notes: isObject,
    options: value => isObject(value) && isObject(value['backend']),
  }
  const fields = Object.keys(right) as (keyof DeviceRecord)[]
  return fields.find(field => !isObject(value) || !right[field](value[field]))
}
