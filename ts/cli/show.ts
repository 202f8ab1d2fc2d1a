import type { Command } from 'commander'
import { parseDevice } from '../disk-name.js'
import type { DeviceInfo } from '../info.js'
import { toJsonText } from '../json.js'
import { deviceColumns, look } from './device-table.js'
import { report } from './failure.js'
import { loadApi } from './load-api.js'
import { print } from './output.js'
import { addListingOptions, formatFields, type ListingOptions, selectColumns, toJson } from './table.js'

const allColumns = deviceColumns.map(column => column.name)

/** Adds `ublk-ts show`. */
export function addShow(program: Command): void {
  const command = program
    .command('show')
    .description('show everything about devices')
    .argument('<device...>', 'such as 0, /dev/ublkb0 or the name of a disk')
  addListingOptions(command, deviceColumns, ['all'], 'ublk-ts show /dev/ublkb0').action(show)
}

async function show(devices: string[], options: ListingOptions): Promise<void> {
  for (const device of devices) parseDevice(device)
  const columns = selectColumns(deviceColumns, allColumns, options)
  const { UblkDevice } = await loadApi()
  const infos: DeviceInfo[] = []
  for (const device of devices) {
    try {
      infos.push(await (await UblkDevice.open(device)).info())
    } catch (error) {
      if (devices.length === 1) throw error
      process.exitCode = report(error)
    }
  }
  const rows = await look(infos, columns, UblkDevice)
  if (options.json) await print(toJsonText(toJson('ublkdevices', columns, rows), 2))
  else await print(rows.map(row => formatFields(columns, row, options)).join('\n\n'))
}
