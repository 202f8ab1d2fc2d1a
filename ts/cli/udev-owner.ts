import type { Command } from 'commander'
import { idOf, nameOfDevice } from '../remote/names.js'
import { loadApi } from './load-api.js'
import { print } from './output.js'

/** Adds `ublk-ts owner`, with which the udev rule asks for the owner and the name of a new device. */
export function addOwner(program: Command): void {
  program
    .command('owner', { hidden: true })
    .description(
      'print the user and group that created an unprivileged device; print nothing for other devices',
    )
    .argument('<device>', 'such as ublkc0')
    .option('--udev', 'print properties for udev: the owner of an unprivileged device, the name of another')
    .action(owner)
}

async function owner(device: string, { udev = false }: { udev?: boolean }): Promise<void> {
  const id = idOf(device)
  const { UblkDevice } = await loadApi()
  const { flags, ownerUid, ownerGid } = await (await UblkDevice.open(id)).info()
  if (!flags.includes('UNPRIVILEGED_DEV')) {
    const name = udev ? nameOfDevice(id) : undefined
    if (name !== undefined) await print(property('NAME', name))
  } else if (udev) await print(`${property('UID', ownerUid)}\n${property('GID', ownerGid)}`)
  else await print(`${ownerUid} ${ownerGid}`) // for rules of earlier versions
}

function property(name: string, value: string | number): string {
  return `UBLK_TS_${name}=${value}`
}
