import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { Command } from 'commander'
import { UblkError } from '../errors.js'
import { printable } from '../printable.js'
import { identityOf } from '../remote/identity.js'
import { idOf } from '../remote/names.js'
import { readRecord } from '../remote/record-file.js'
import { findRunDir } from '../remote/run-dir.js'
import { LogReader } from './log-reader.js'
import { print } from './output.js'
import { times } from './parse-numbers.js'
import { ticks } from './ticks.js'

interface Flags {
  follow?: boolean
  lines?: number
  json?: boolean
}

const HELP = `
A server in the background logs to a file. It is kept when its device is deleted, until another device has that
number. A service logs to the journal: journalctl -u ublk-ts@0.

Example:
  ublk-ts logs --follow db`

/** With --follow: how often the log is read, in seconds. */
const PERIOD = 0.25

/** With --follow: how many of the lines that are there already are printed. */
const LAST = 10

/** How long a server may log that its device is deleted after it was, in seconds. */
const LAST_WORDS = 2

/** Adds `ublk-ts logs`. */
export function addLogs(program: Command): void {
  program
    .command('logs')
    .description("print the log of a device's server")
    .argument('<device>', 'such as 0, /dev/ublkb0 or the name of a disk')
    .option('-f, --follow', 'go on with what is logged, until interrupted or the device is deleted')
    .option('-n, --lines <n>', `only the last lines (default: all; with --follow: ${LAST})`, times)
    .option('-J, --json', 'print the lines as they are logged, mostly JSON')
    .addHelpText('after', HELP)
    .action(logs)
}

async function logs(device: string, { follow = false, lines, json = false }: Flags): Promise<void> {
  const id = idOf(device)
  const identity = identityOf(id)
  const wanted = lines ?? (follow ? LAST : Number.POSITIVE_INFINITY)
  using log = new LogReader(logOf(id))
  const show = async (some: readonly string[]): Promise<void> => {
    if (some.length > 0) await print(some.map(line => (json ? line : readable(line))).join('\n'))
  }
  await show(log.last(wanted))
  if (!follow) return
  const { interrupts } = await import('../daemon/interrupts.js')
  const { first: interrupted } = interrupts({ hangup: 'end' })
  let [server, patience] = [serverOf(id), LAST_WORDS / PERIOD]
  for await (const _ of ticks(PERIOD, Number.POSITIVE_INFINITY, interrupted)) {
    const ended = identity === undefined || identityOf(id) !== identity
    if (!ended) server = serverOf(id) ?? server
    const over = ended && (!isRunning(server) || --patience < 0)
    await show(log.more())
    if (over) return
  }
  await show(log.more())
}

function serverOf(id: number): number | undefined {
  const found = readRecord(id)
  return found.state === 'served' ? found.record.server.pid : undefined
}

function isRunning(pid: number | undefined): boolean {
  return pid !== undefined && existsSync(`/proc/${pid}`)
}

/** The path of the log of a device, or of an earlier one with its number. */
function logOf(id: number): string {
  const found = readRecord(id)
  if (found.state === 'served' || found.state === 'dead') {
    const { log, server } = found.record
    if (log !== null) return log
    throw new UblkError(
      'not-found',
      `device ${id} has no log file: its server, process ${server.pid}, logs elsewhere`,
      {
        device: id,
        hint: `to its terminal, or to the journal (journalctl _PID=${server.pid})`,
      },
    )
  }
  const dir = findRunDir()
  const left = dir === undefined ? undefined : join(dir, `${id}.log`)
  if (left !== undefined && existsSync(left)) return left
  const [what, hint] =
    identityOf(id) === undefined
      ? [`there is no ublk device ${id}`, 'choose one that exists{list}']
      : [`device ${id} has no record, which says where its log is`, '{record} writes one']
  throw new UblkError('not-found', what, { device: id, hint })
}

/**
 * `2026-01-31T12:00:00.000Z INFO message`; what is no JSON, such as the last words of Node itself, as it is. What JSON escapes
 * stays escaped.
 */
export function readable(line: string): string {
  try {
    const { '@timestamp': time, level, message } = JSON.parse(line) as Record<string, unknown>
    if (typeof message === 'string') return printable(`${time} ${String(level).toUpperCase()} ${message}`)
  } catch {}
  return line
}
