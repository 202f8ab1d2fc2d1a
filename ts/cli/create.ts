import { type Command, InvalidArgumentError, Option } from 'commander'
import { type Backend, file, memory, nullDisk } from '../backends.js'
import type { UblkDevice } from '../device.js'
import { invalid, UblkError } from '../errors.js'
import type { DeviceExit } from '../events.js'
import type { DeviceOptions } from '../options.js'
import { loadApi } from './api.js'
import { deviceColumns } from './devices.js'
import { complain, print } from './output.js'
import { toJson } from './table.js'

interface Flags {
  mem?: string
  null?: string
  file?: string
  direct?: boolean
  id?: number
  queues?: number
  depth?: number
  threads?: 'own' | 'shared'
  blockSize?: string
  maxIo?: string
  readOnly?: boolean
  writeCache?: 'on' | 'off'
  rotational?: boolean
  discard: boolean
  discardGranularity?: string
  maxDiscard?: string
  json?: boolean
}

const HELP = `
Sizes are bytes or have a unit: 16M and 16MiB are 16 × 1024 × 1024, 16MB is 16 × 1000 × 1000.

The disk lives as long as this command runs. Ctrl-C removes it; while it is mounted or open, that waits
until it is free, and a second Ctrl-C removes it anyway.

Example:
  ublk-ts create --mem 16M`

/** Adds `ublk-ts create`. */
export function addCreate(program: Command): void {
  program
    .command('create')
    .description('make a disk and serve it until interrupted; prints its path once it is usable')
    .option('--mem <size>', 'a disk in memory')
    .option('--null <size>', 'a disk that keeps nothing, to measure with')
    .option('--file <path>', 'a disk in an existing file or on another block device')
    .option('--direct', 'with --file: bypass the page cache')
    .option('--id <n>', 'the number in /dev/ublkb<n> (default: a free one)', count)
    .option('--queues <n>', 'hardware queues, 1 to 4096 (default: 1)', count)
    .option('--depth <n>', 'requests per queue, 1 to 4096 (default: 128)', count)
    .addOption(
      new Option(
        '--threads <whose>',
        'a thread for each queue, or a few for all disks of a process (default: own)',
      ).choices(['own', 'shared']),
    )
    .option('--block-size <size>', '512, 1024, 2048 or 4096 (default: 512)')
    .option('--max-io <size>', 'the largest request, 4K to 32M (default: 512K)')
    .option('--read-only', 'refuse writes')
    .addOption(
      new Option('--write-cache <mode>', 'announce a volatile write cache (default: on with --file)').choices(
        ['on', 'off'],
      ),
    )
    .option('--rotational', 'announce that seeking is slow')
    .option('--no-discard', 'refuse discards')
    .option('--discard-granularity <size>', 'the smallest area a discard frees')
    .option('--max-discard <size>', 'the largest discard')
    .option('-J, --json', 'print one line of JSON instead of the path')
    .addHelpText('after', HELP)
    .action(create)
}

async function create(flags: Flags): Promise<void> {
  const options = toOptions(flags)
  const { UblkDevice } = await loadApi()
  const { first, second } = interrupts()
  const disk = await UblkDevice.create({ ...options, signal: first }).catch(error => {
    throw first.aborted ? new UblkError('cancelled', 'interrupted before the disk was usable') : error
  })
  const end = endOf(disk, first)
  try {
    await print(await announcement(disk, flags))
  } catch (error) {
    await remove(disk, second)
    throw error
  }
  const exit = await end
  if (!exit) await remove(disk, second)
  else {
    await disk.delete({ force: true }) // The disk is gone; what is left is of no use.
    throw new UblkError('system', `${disk.path} is gone: ${exit.reason}`, {
      hint: 'another process stopped or deleted it, or serving it failed',
    })
  }
}

/** The words of the command line as options of the API. */
function toOptions(flags: Flags): DeviceOptions {
  const { mem, null: none, file: path, direct, writeCache, discard, json: _json, ...same } = flags
  return {
    ...same,
    backend: toBackend(mem, none, path, direct),
    ...(writeCache === undefined ? {} : { writeCache: writeCache === 'on' }),
    ...(discard ? {} : { discard: false }),
  }
}

function toBackend(mem?: string, none?: string, path?: string, direct?: boolean): Backend {
  const given = [mem, none, path].filter(value => value !== undefined).length
  if (given === 0) throw invalid('no backend given', 'give --mem SIZE, --null SIZE or --file PATH')
  if (given > 1) throw invalid('more than one backend given', 'give only one of --mem, --null and --file')
  if (direct && path === undefined) throw invalid('--direct is only for --file')
  if (mem !== undefined) return memory(mem)
  if (none !== undefined) return nullDisk(none)
  return file(path ?? '', { direct: direct ?? false })
}

/** Resolves when interrupted, or with the reason if the disk went away by itself. */
async function endOf(disk: UblkDevice, interrupted: AbortSignal): Promise<DeviceExit | undefined> {
  return await new Promise(resolve => {
    disk.once('exit', resolve)
    disk.on('error', error => complain(error.message))
    interrupted.addEventListener('abort', () => resolve(undefined), { once: true })
    if (interrupted.aborted) resolve(undefined)
  })
}

async function announcement(disk: UblkDevice, flags: Flags): Promise<string> {
  if (!flags.json) return disk.path
  const row = { ...(await disk.info()), users: [] }
  return JSON.stringify(toJson('ublkdevices', deviceColumns, [row]))
}

/** Deletes the disk as soon as nobody holds it, or at once when forced. */
async function remove(disk: UblkDevice, forced: AbortSignal): Promise<void> {
  const users = await disk.users()
  if (users.length > 0 && !forced.aborted) {
    complain(
      `${disk.path} is still in use (${users.join(', ')}); waiting — press Ctrl-C again to remove it anyway`,
    )
  }
  try {
    await disk.delete({ wait: true, signal: forced })
  } catch (error) {
    if (!forced.aborted) throw error
    await disk.delete({ force: true })
  }
}

/** npm passes on the Ctrl-C that its child has already had from the terminal: these are one. */
const SAME_PRESS_MS = 300

/** Signals that fire at the first and at the second request to end. */
function interrupts(): { first: AbortSignal; second: AbortSignal } {
  const first = new AbortController()
  const second = new AbortController()
  let since = 0
  const interrupt = (): void => {
    if (!first.signal.aborted) {
      since = performance.now()
      first.abort()
    } else if (performance.now() - since > SAME_PRESS_MS) second.abort()
  }
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, interrupt)
  return { first: first.signal, second: second.signal }
}

function count(text: string): number {
  if (/^\d+$/.test(text)) return Number(text)
  throw new InvalidArgumentError('It must be a whole number.')
}
