import { statSync } from 'node:fs'
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Command, Option } from 'commander'
import { KINDS } from '../backends/list.js'
import { nodesOf, pathsOf } from '../backends/stack.js'
import type { DeviceInfo } from '../info.js'
import type { Json } from '../json.js'
import { readBackend } from '../remote/record-file.js'
import { stateOf } from './device-state.js'

const STATES = ['live', 'stopped', 'dead', 'quiesced', 'fail-io', 'stopping', 'unknown']

/** The options that choose among devices. */
export interface DeviceFilter {
  file?: string
  backend?: string
  state?: string
}

/**
 * Adds these options to a command.
 *
 * @param prefix - What their descriptions begin with.
 */
export function addFilterOptions(command: Command, prefix = ''): Command {
  return command
    .option('--file <path>', `${prefix}only disks that use this file, block device or URL`)
    .addOption(
      new Option('--backend <kind>', `${prefix}only disks with this kind of backend`).choices([
        ...KINDS.map(({ name }) => name),
      ]),
    )
    .addOption(new Option('--state <state>', `${prefix}only devices in this state`).choices(STATES))
}

/** Whether any of them is given. */
export function filters({ file, backend, state }: DeviceFilter): boolean {
  return [file, backend, state].some(value => value !== undefined)
}

/** Whether a device is chosen. The backend and the files of a disk are those in its record. */
export function chosen({ file, backend, state }: DeviceFilter, device: DeviceInfo): boolean {
  if (state !== undefined && stateOf(device) !== state) return false
  if (file === undefined && backend === undefined) return true
  const recorded = readBackend(device.id)
  if (recorded === undefined) return false
  if (backend !== undefined && (recorded as { kind?: unknown }).kind !== backend) return false
  return file === undefined || uses(recorded, file)
}

/**
 * Whether a recorded backend uses a file, block device or URL. Paths are compared with those of its files only: other text in
 * it, such as its kind, may be the name of a file elsewhere.
 */
export function uses(recorded: Json, wanted: string): boolean {
  if (URL.canParse(wanted) && textsIn(recorded).includes(wanted)) return true
  const path = resolve(pathOf(wanted) ?? wanted)
  // Images that may be opened below a directory do not make it a disk's file.
  if (statSync(path, { throwIfNoEntry: false })?.isDirectory()) return false
  return filesOf(recorded).some(file => isSame(file, path))
}

/** All files that a backend names: those that its server uses, and those that they are over. */
function filesOf(recorded: Json): string[] {
  const below = nodesOf(recorded).flatMap(({ backend }) => {
    const { snapshot, backing } = backend as { snapshot?: unknown; backing?: unknown }
    return [snapshot, backing].flat()
  })
  return [...pathsOf(recorded), ...below].filter(file => typeof file === 'string')
}

/** All text in a backend: URLs are among it. */
function textsIn(value: Json): string[] {
  if (typeof value === 'string') return [value]
  return typeof value === 'object' && value !== null ? Object.values(value).flatMap(textsIn) : []
}

/** By whatever path or link a file is meant. */
function isSame(recorded: string, other: string): boolean {
  const one = pathOf(recorded)
  if (one === undefined) return false
  if (one === other) return true
  const [a, b] = [one, other].map(path => statSync(path, { bigint: true, throwIfNoEntry: false }))
  if (a === undefined || b === undefined) return false
  return a.isBlockDevice() ? a.rdev === b.rdev : a.dev === b.dev && a.ino === b.ino
}

function pathOf(text: string): string | undefined {
  if (text.startsWith('/')) return text
  try {
    return text.startsWith('file:') ? fileURLToPath(text) : undefined
  } catch {
    return undefined
  }
}
