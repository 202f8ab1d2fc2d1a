import type { Command } from 'commander'
import { invalid } from '../errors.js'
import { announcement } from './device-table.js'
import { describe } from './failure.js'
import { loadApi } from './load-api.js'
import { SERVER_PROGRAM } from './server-program.js'

/** Adds `ublk-ts serve`, which only `create --detach` starts. */
export function addServe(program: Command): void {
  program.command('serve', { hidden: true }).action(async () => {
    if (!process.send) throw invalid('serve is what create --detach starts', 'use that')
    await loadApi()
    const { serveDetached } = await import('../daemon/detached-server.js')
    process.exitCode = await serveDetached({ program: SERVER_PROGRAM, announcement, failure: describe })
  })
}
