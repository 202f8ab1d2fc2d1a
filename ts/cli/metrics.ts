import type { Command } from 'commander'
import { invalid } from '../errors.js'
import type { Address } from '../watch/http-endpoint.js'
import { Readings } from '../watch/readings.js'
import { loadApi } from './load-api.js'
import { print } from './output.js'

const HELP = `
The output covers all devices whose server answers; ublk_up is 0 for the others. The endpoint is
unauthenticated: bind it only to trusted addresses.

Example:
  ublk-ts metrics --listen 127.0.0.1:9464`

/** Adds `ublk-ts metrics`. */
export function addMetrics(program: Command): void {
  program
    .command('metrics')
    .description("print all devices' counters as OpenMetrics text, or serve them to Prometheus")
    .option(
      '--listen <address>',
      'serve them at http://ADDRESS/metrics until interrupted: a port, or HOST:PORT',
    )
    .addHelpText('after', HELP)
    .action(metrics)
}

async function metrics({ listen }: { listen?: string }): Promise<void> {
  const address = listen === undefined ? undefined : parseAddress(listen)
  const { UblkDevice } = await loadApi()
  const { openMetrics, CONTENT_TYPE } = await import('../watch/openmetrics.js')
  using readings = new Readings(UblkDevice)
  const text = async (): Promise<string> => await openMetrics(await readings.all())
  if (!address) return await print(await text())
  const { interrupts } = await import('../daemon/interrupts.js')
  const { Endpoint } = await import('../watch/http-endpoint.js')
  const { first: interrupted } = interrupts({ hangup: 'end' })
  const endpoint = await Endpoint.listen(address, async () => ({ type: CONTENT_TYPE, text: await text() }))
  try {
    await print(endpoint.url)
    if (!interrupted.aborted) {
      await new Promise(resolve => interrupted.addEventListener('abort', resolve, { once: true }))
    }
  } finally {
    endpoint.close()
  }
}

/** Reads `9464`, `127.0.0.1:9464`, `localhost:9464` or `[::1]:9464`. */
export function parseAddress(text: string): Address {
  const [, bracketed, plain, digits] = /^(?:(?:\[([^\]]+)\]|([^:[\]]+)):)?(\d+)$/.exec(text) ?? []
  const port = Number(digits ?? Number.NaN)
  if (port <= 65535) return { host: bracketed ?? plain ?? '127.0.0.1', port }
  throw invalid(`'${text}' is no address to listen at`, 'give a port, or HOST:PORT such as 127.0.0.1:9464')
}
