import type { Command } from 'commander'
import { parseDeviceId } from './device-table.js'
import { loadApi } from './load-api.js'
import { print } from './output.js'

/** Adds `ublk-ts owner`, with which the udev rule asks for the owner of a new device. */
export function addOwner(program: Command): void {
  program
    .command('owner', { hidden: true })
    .description(
      'print the user and group that created an unprivileged device; print nothing for other devices',
    )
    .argument('<device>', 'such as ublkc0')
    .action(owner)
}

async function owner(device: string): Promise<void> {
  const id = parseDeviceId(device)
  const { UblkDevice } = await loadApi()
  const { flags, ownerUid, ownerGid } = await (await UblkDevice.open(id)).info()
  if (flags.includes('UNPRIVILEGED_DEV')) await print(`${ownerUid} ${ownerGid}`)
}
