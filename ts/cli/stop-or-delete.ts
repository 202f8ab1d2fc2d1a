import type { Command } from 'commander'
import type { UblkDevice } from '../device.js'
import { invalid, UblkError, wrap } from '../errors.js'
import type { EndOptions } from '../lifecycle-options.js'
import { parseSeconds } from '../option-values.js'
import { idOf } from '../remote/names.js'
import { report } from './failure.js'
import { loadApi } from './load-api.js'
import { reading } from './option-reader.js'
import { complain } from './output.js'

interface Flags {
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
    .argument('<device...>', 'such as 0, /dev/ublkb0 or the name of a disk')
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
  const ids = devices.map(idOf)
  const { UblkDevice } = await loadApi()
  const { force = false, wait = false, timeout } = flags
  const signal = timeout === undefined ? undefined : AbortSignal.timeout(timeout * 1000)
  for (const id of ids) {
    try {
      const device = await UblkDevice.open(id).catch(error => {
        if (wrap(error).kind === 'not-found' && missing?.(id)) return undefined
        throw error
      })
      if (!device) continue
      const onProgress = (line: string): void => complain(wait && !force ? `${line}; waiting` : line)
      await end(device, { force, wait, onProgress, ...(signal && { signal }) }).catch(async error => {
        throw signal?.aborted ? await stillInUse(device, timeout) : error
      })
    } catch (error) {
      process.exitCode = report(error)
    }
  }
}

async function stillInUse(device: UblkDevice, timeout: number | undefined): Promise<UblkError> {
  const users = await device.users()
  const who = users.length > 0 ? ` (${users.join(', ')})` : ''
  return new UblkError('timeout', `${device.path} is still in use after ${timeout} s${who}`, {
    hint: 'unmount or close it, or use --force',
  })
}
