import type { Command } from 'commander'
import { addEnd } from './end.js'

/** Adds `ublk-ts delete`. */
export function addDelete(program: Command): void {
  const command = program.command('delete').alias('rm').description('stop and remove devices')
  addEnd(command, 'delete', (device, options) => device.delete(options))
}
