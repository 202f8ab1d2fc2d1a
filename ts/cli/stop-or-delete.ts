import type { Command } from 'commander'
import type { UblkDevice } from '../device.js'
import { invalid, UblkError, wrap } from '../errors.js'
import type { EndOptions } from '../lifecycle-options.js'
import { parseSeconds } from '../option-values.js'
import { parseDeviceId } from './device-table.js'
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
  /** Whether there is something to be done about one that does not exist, and it was done. */
  missing?(id: number): boolean
}

/** What `stop` and `delete` share: their arguments, and how they go about devices in use. */
export function addStopOrDelete(command: Command, verb: string, action: Action): void {
  command
    .argument('<device...>', 'such as 0 or /dev/ublkb0')
    .option(
      '-f, --force',
      'even if the disk is mounted or open: its users get I/O errors; a server that does not answer is killed',
    )
    .option('-w, --wait', 'if the disk is mounted or open, wait until it is free')
    .option(
      '-t, --timeout <seconds>',
      'with --wait: how long to wait (default: for ever)',
      reading(parseSeconds),
    )
    .addHelpText('after', `\nExample:\n  ublk-ts ${verb} --wait --timeout 30 /dev/ublkb0`)
    .action((devices: string[], flags: Flags) => endAll(devices, flags, action))
}

/** Goes on after a failure, as `rm` does, and reports each. */
async function endAll(devices: string[], flags: Flags, { end, missing }: Action): Promise<void> {
  if (flags.timeout !== undefined && !flags.wait) throw invalid('--timeout is only for --wait')
  const ids = devices.map(parseDeviceId)
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
