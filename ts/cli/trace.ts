import type { Command } from 'commander'
import { toJsonText } from '../json.js'
import { idOf } from '../remote/names.js'
import type { TraceRecord } from '../trace.js'
import { loadApi } from './load-api.js'
import { complain, print } from './output.js'
import { times } from './parse-numbers.js'
import { lostLine, traceLine } from './trace-lines.js'

interface Flags {
  count?: number
  json?: boolean
}

const HELP = `
Each line shows the time of the answer, queue and tag, operation, offset+length in bytes, flags, how long
the server took, the error if the request failed, and the rules of --fault that were applied to it. Flags: fua, a write that must be durable when it
completes; meta, a file system's own structures; failfast, no retries after an error; swap, memory swapped in
or out.

Example:
  ublk-ts trace --count 10 /dev/ublkb0`

/** Adds `ublk-ts trace`. */
export function addTrace(program: Command): void {
  program
    .command('trace')
    .description('print each request of a device, until interrupted or the device is deleted')
    .argument('<device>', 'such as 0, /dev/ublkb0 or the name of a disk')
    .option('-c, --count <n>', 'end after this many requests', times)
    .option('-J, --json', 'print a line of JSON for each request')
    .addHelpText('after', HELP)
    .action(trace)
}

async function trace(device: string, { count = Number.POSITIVE_INFINITY, json }: Flags): Promise<void> {
  const id = idOf(device)
  const { UblkDevice } = await loadApi()
  const { interrupts } = await import('../daemon/interrupts.js')
  const { first: interrupted } = interrupts({ hangup: 'end' })
  const disk = await UblkDevice.open(id)
  const done = new AbortController()
  const output = new Output(done)
  const toLine = json ? (record: TraceRecord) => toJsonText(record) : traceLine
  let left = count
  const take = (records: readonly TraceRecord[], dropped: number): void => {
    if (dropped > 0) complain(lostLine(dropped))
    output.add(records.slice(0, left).map(toLine))
    left -= records.length
    if (left <= 0) done.abort()
  }
  await disk.trace(take, { signal: AbortSignal.any([interrupted, done.signal]) })
  await output.end()
}

/** Prints lines in order. The first failure ends it. */
class Output {
  readonly #failed: AbortController
  #printed: Promise<void> = Promise.resolve()

  constructor(failed: AbortController) {
    this.#failed = failed
  }

  add(lines: readonly string[]): void {
    if (lines.length === 0) return
    this.#printed = this.#printed.then(() => print(lines.join('\n')))
    this.#printed.catch(() => this.#failed.abort()) // end() throws it.
  }

  async end(): Promise<void> {
    await this.#printed
  }
}
