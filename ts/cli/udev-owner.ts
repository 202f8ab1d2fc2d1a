import type { Command } from 'commander'
import { parseDeviceId } from './device-table.js'
import { loadApi } from './load-api.js'
import { print } from './output.js'

/** Adds `ublk-ts owner`, which the udev rule asks whom to give a new device to. */
export function addOwner(program: Command): void {
  program
    .command('owner', { hidden: true })
    .description('print user and group of the maker of an unprivileged device; of others, nothing')
    .argument('<device>', 'such as ublkc0')
    .action(owner)
}

async function owner(device: string): Promise<void> {
  const id = parseDeviceId(device)
  const { UblkDevice } = await loadApi()
  const { flags, ownerUid, ownerGid } = await (await UblkDevice.open(id)).info()
  if (flags.includes('UNPRIVILEGED_DEV')) await print(`${ownerUid} ${ownerGid}`)
}
