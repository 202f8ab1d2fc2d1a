import type { Command } from 'commander'
import { addEnd } from './end.js'

/** Adds `ublk-ts stop`. */
export function addStop(program: Command): void {
  const command = program.command('stop').description('remove disks but keep their devices')
  addEnd(command, 'stop', { end: (device, options) => device.stop(options) })
}
