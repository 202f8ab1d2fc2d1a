import type { Command } from 'commander'
import type { Job } from '../daemon/job.js'
import { toJsonText } from '../json.js'
import { parseSeconds } from '../option-values.js'
import { idOf } from '../remote/names.js'
import { loadApi } from './load-api.js'
import { reading } from './option-reader.js'
import { print } from './output.js'
import { OTHER_FILE } from './recover.js'
import { SERVER_PROGRAM } from './server-program.js'
import { toServing } from './serving-options.js'

interface Flags {
  timeout: number
  otherFile?: boolean
  verbose?: boolean
  json?: boolean
}

const HELP = `
A new server, of this version, takes over the device from the current one. Meanwhile, new requests wait for
some milliseconds; none fails. If the new server cannot take over, the old one continues.
The device must have been created with --recovery requeue or reissue; with --transport batch, only reissue.
If the path of the disk's file now leads to another file, the upgrade is refused.

Example:
  ublk-ts upgrade --verbose 0`

/** Adds `ublk-ts upgrade`. */
export function addUpgrade(program: Command): void {
  program
    .command('upgrade')
    .description('replace the server of a disk that is in use')
    .argument('<device>', 'such as 0, /dev/ublkb0 or the name of a disk')
    .option('-t, --timeout <seconds>', 'how long the new server may take', reading(parseSeconds), 60)
    .option('--other-file', OTHER_FILE)
    .option('-v, --verbose', 'print how long requests waited')
    .option('-J, --json', 'print one line of JSON')
    .addHelpText('after', HELP)
    .action(upgrade)
}

async function upgrade(device: string, { timeout, otherFile, verbose, json }: Flags): Promise<void> {
  const id = idOf(device)
  const serving = toServing({ detach: true, timeout })
  const { UblkDevice } = await loadApi()
  await UblkDevice.open(id) // Fails if there is no such device.
  const { recordOfServed } = await import('../daemon/recoverable-record.js')
  const { options, scratch, notes, log, server } = recordOfServed(id)
  const { interrupts } = await import('../daemon/interrupts.js')
  const { startDetached } = await import('../daemon/start-detached.js')
  const job: Job = {
    ...serving,
    action: 'take-over',
    id,
    options,
    otherFile,
    scratch,
    notes,
    log: { ...serving.log, path: log },
  }
  await startDetached(SERVER_PROGRAM, job, interrupts({ hangup: 'end' }).first, async ({ paused = 0 }) => {
    const milliseconds = Math.round(paused * 10) / 10
    const { pid } = await (await UblkDevice.open(id)).info()
    if (json) await print(toJsonText({ id, 'old-pid': server.pid, pid, 'paused-ms': milliseconds }))
    else if (verbose)
      await print(`device ${id} is served by process ${pid}; requests waited for ${milliseconds} ms`)
  })
}
