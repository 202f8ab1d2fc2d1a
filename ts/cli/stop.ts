import type { Command } from 'commander'
import { addEnd } from './end.js'

/** Adds `ublk-ts stop`. */
export function addStop(program: Command): void {
  const command = program
    .command('stop')
    .description(
      'remove disks; servers of ublk-ts then end, with their devices; those of programs may start them again',
    )
  addEnd(command, 'stop', { end: (device, options) => device.stop(options) })
}
