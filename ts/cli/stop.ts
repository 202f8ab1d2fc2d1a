import type { Command } from 'commander'
import { addStopOrDelete } from './stop-or-delete.js'

/** Adds `ublk-ts stop`. */
export function addStop(program: Command): void {
  const command = program
    .command('stop')
    .description(
      'remove disks: servers that ublk-ts started then delete their devices; programs may start theirs again',
    )
  addStopOrDelete(command, 'stop', { end: (device, options) => device.stop(options) })
}
