import type { Command } from 'commander'
import type { UblkDevice } from '../device.js'
import { parseDevice } from '../disk-name.js'
import { invalid, UblkError, wrap } from '../errors.js'
import type { EndOptions } from '../lifecycle-options.js'
import { parseSeconds } from '../option-values.js'
import { identityOf } from '../remote/identity.js'
import { idOf } from '../remote/names.js'
import { addFilterOptions, chosen, type DeviceFilter, filters } from './device-filter.js'
import { report } from './failure.js'
import { loadApi } from './load-api.js'
import { reading } from './option-reader.js'
import { complain, print } from './output.js'

interface Flags extends DeviceFilter {
  all?: boolean
  dryRun?: boolean
  force?: boolean
  wait?: boolean
  timeout?: number
}

/** What a command does with each device. */
export interface Action {
  end(device: UblkDevice, options: EndOptions): Promise<void>
  /** Cleans up after a device that does not exist. Returns whether there was anything to clean up. */
  missing?(id: number): boolean
}

/** Adds what `stop` and `delete` share: their arguments, and how they treat devices in use. */
export function addStopOrDelete(command: Command, verb: string, action: Action): void {
  command
    .argument('[device...]', 'such as 0, /dev/ublkb0 or the name of a disk')
    .option('-a, --all', 'all devices, or those that the options below choose')
  addFilterOptions(command, 'with --all: ')
    .option('--dry-run', 'with --all: only print the paths of the disks')
    .option(
      '-f, --force',
      'do it even if the disk is mounted or open: its users get I/O errors; kill a server that does not answer',
    )
    .option('-w, --wait', 'if the disk is mounted or open, wait until it is free')
    .option(
      '-t, --timeout <seconds>',
      'with --wait: how long to wait (default: forever)',
      reading(parseSeconds),
    )
    .addHelpText('after', `\nExample:\n  ublk-ts ${verb} --wait --timeout 30 /dev/ublkb0`)
    .action((devices: string[], flags: Flags) => endAll(devices, flags, action))
}

/** Reports each failure and continues with the next device, as `rm` does. */
async function endAll(devices: string[], flags: Flags, { end, missing }: Action): Promise<void> {
  if (flags.timeout !== undefined && !flags.wait) throw invalid('--timeout is only for --wait')
  checkChoice(devices, flags)
  for (const device of devices) parseDevice(device)
  const { UblkDevice } = await loadApi()
  const listed = flags.all
    ? (await UblkDevice.list()).map(info => ({ ...info, identity: identityOf(info.id) }))
    : []
  const all = listed.filter(device => chosen(flags, device))
  if (flags.dryRun) {
    if (all.length > 0) await print(all.map(({ path }) => path).join('\n'))
    return
  }
  const { force = false, wait = false, timeout } = flags
  const signal = timeout === undefined ? undefined : AbortSignal.timeout(timeout * 1000)
  const targets = [
    ...devices.map(text => ({ text, identity: undefined })),
    ...all.map(({ id, identity }) => ({ text: String(id), identity })),
  ]
  for (const { text, identity } of targets) {
    try {
      const id = idOf(text)
      const device = await UblkDevice.open(id).catch(error => {
        // Of all devices, one may be gone by now.
        if (wrap(error).kind === 'not-found' && (missing?.(id) || flags.all)) return undefined
        throw error
      })
      if (!device) continue
      // Meanwhile, such as while another one was waited for, its number may be another's, or a dead disk be served again.
      if (flags.all && (identityOf(id) !== identity || !(await isChosen(device, flags)))) continue
      const onProgress = (line: string): void => complain(wait && !force ? `${line}; waiting` : line)
      await end(device, { force, wait, onProgress, ...(signal && { signal }) }).catch(async error => {
        throw signal?.aborted ? await stillInUse(device, timeout) : error
      })
    } catch (error) {
      process.exitCode = report(error)
    }
  }
}

/** Whether a device is one of those that the options choose, as it is now. */
async function isChosen(device: UblkDevice, flags: Flags): Promise<boolean> {
  if (!filters(flags)) return true
  try {
    return chosen(flags, await device.info())
  } catch (error) {
    if (wrap(error).kind === 'not-found') return false // It is gone by now.
    throw error
  }
}

function checkChoice(devices: readonly string[], flags: Flags): void {
  if (devices.length > 0 && flags.all) throw invalid('--all goes with no device')
  if (flags.all) return
  if (devices.length === 0) throw invalid('no device is given', 'name devices, or choose them with --all')
  if (filters(flags)) throw invalid('--file, --backend and --state are only for --all')
  if (flags.dryRun) throw invalid('--dry-run is only for --all')
}

async function stillInUse(device: UblkDevice, timeout: number | undefined): Promise<UblkError> {
  const users = await device.users()
  const who = users.length > 0 ? ` (${users.join(', ')})` : ''
  return new UblkError('timeout', `${device.path} is still in use after ${timeout} s${who}`, {
    hint: 'unmount or close it, or use --force',
  })
}
