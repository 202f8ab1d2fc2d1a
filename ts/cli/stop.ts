import type { Command } from 'commander'
import { addEnd } from './end.js'

/** Adds `ublk-ts stop`. */
export function addStop(program: Command): void {
  const command = program
    .command('stop')
    .description(
      'remove disks; ublk-ts servers then end and delete their devices; programs may start theirs again',
    )
  addEnd(command, 'stop', { end: (device, options) => device.stop(options) })
}
