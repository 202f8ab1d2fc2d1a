import type { Command } from 'commander'
import { loadApi } from './load-api.js'
import { complain, print } from './output.js'
import { port } from './parse-numbers.js'

interface Flags {
  port: number
  allowChanges?: boolean
}

const HELP = `
It prints a URL to open in a browser, and serves the page until interrupted: only on this machine, and only
to those who have the URL. To see it elsewhere, forward the port: ssh -L 8080:127.0.0.1:PORT HOST.

Example:
  ublk-ts dashboard`

/** Adds `ublk-ts dashboard`. */
export function addDashboard(program: Command): void {
  program
    .command('dashboard')
    .description(
      'show all devices in a browser: load over time, maps of what is read and written, layers, faults',
    )
    .option('-p, --port <n>', 'the port to listen at (default: a free one)', port, 0)
    .option('--allow-changes', 'let the page remove rules for faults, and let requests that hang go on')
    .addHelpText('after', HELP)
    .action(dashboard)
}

async function dashboard({ port, allowChanges: mayChange = false }: Flags): Promise<void> {
  const { UblkDevice } = await loadApi()
  const { interrupts } = await import('../daemon/interrupts.js')
  const { Dashboard } = await import('../dashboard/server.js')
  const { Machine } = await import('../dashboard/source.js')
  const { untold } = await import('../dashboard/untold.js')
  const { first: interrupted } = interrupts({ hangup: 'end' })
  using machine = new Machine(UblkDevice)
  const silent = untold(await machine.read(), process.geteuid?.() === 0)
  if (silent !== undefined) complain(silent)
  const served = await Dashboard.listen(machine, { port, mayChange })
  try {
    await print(served.url)
    if (!interrupted.aborted) {
      await new Promise(resolve => interrupted.addEventListener('abort', resolve, { once: true }))
    }
  } finally {
    await served.close()
  }
}
