import type { Command } from 'commander'
import { linksTo } from '../remote/names.js'
import { removeStale } from '../remote/record-file.js'
import { addStopOrDelete } from './stop-or-delete.js'

/** Adds `ublk-ts delete`. */
export function addDelete(program: Command): void {
  const command = program
    .command('delete')
    .alias('rm')
    .description('stop and remove devices, and remove the records of devices that no longer exist')
  addStopOrDelete(command, 'delete', {
    end: (device, options) => device.delete(options),
    missing: id => {
      linksTo(id).remove()
      return removeStale(id, undefined)
    },
  })
}
