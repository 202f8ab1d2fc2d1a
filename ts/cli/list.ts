import type { Command } from 'commander'
import { toJsonText } from '../json.js'
import { addFilterOptions, chosen, type DeviceFilter } from './device-filter.js'
import { deviceColumns, look, usualColumns } from './device-table.js'
import { type Api, listDevices, loadApi } from './load-api.js'
import { print } from './output.js'
import { addListingOptions, formatTable, type ListingOptions, selectColumns, toJson } from './table.js'

/** Adds `ublk-ts list`. */
export function addList(program: Command): void {
  const command = program.command('list').alias('ls').description('list all ublk devices')
  addListingOptions(command, deviceColumns, usualColumns, 'ublk-ts list --output PATH,SIZE,STATE')
  addFilterOptions(command).action(list)
}

async function list(options: ListingOptions & DeviceFilter): Promise<void> {
  const columns = selectColumns(deviceColumns, usualColumns, options)
  const open: Api['UblkDevice']['open'] = async id => await (await loadApi()).UblkDevice.open(id)
  const devices = (await listDevices()).filter(device => chosen(options, device))
  const rows = await look(devices, columns, { open })
  if (options.json) await print(toJsonText(toJson('ublkdevices', columns, rows), 2))
  else if (rows.length > 0) await print(formatTable(columns, rows, options))
}
