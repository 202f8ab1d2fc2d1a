import { mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { type Command, Option } from 'commander'
import { file } from '../../backends/file.js'
import type { BaseBackend } from '../../backends/overlay.js'
import { type PowercutBackend, type PowercutOptions, powercut } from '../../backends/powercut.js'
import { checkStack, nodesOf } from '../../backends/stack.js'
import type { UblkDevice } from '../../device.js'
import { invalid, UblkError } from '../../errors.js'
import { parseJson } from '../../option-values.js'
import { idOf } from '../../remote/names.js'
import { readBackend } from '../../remote/record-file.js'
import type { ServedDevice } from '../../served-device.js'
import { parseSize } from '../../size.js'
import { loadApi } from '../load-api.js'
import { reading } from '../option-reader.js'
import { parseSeed } from '../parse-numbers.js'
import { appendBeginning, type Beginning, readBeginning } from './beginning.js'

/** The flags of a command that say what a log does not. */
export interface LogFlags {
  over?: BaseBackend
  size?: number
  unit?: string
  seed?: number
}

/** Adds them to it. */
export function addLogOptions(command: Command): Command {
  return command
    .option(
      '--over <file>',
      'the disk that the recording began with: an image, or a backend as for --backend',
      reading(readOver),
    )
    .option(
      '--size <size>',
      'the size of the disk (default: as the log says; for one without: as far as was written)',
      reading(text => parseSize(text, 'size')),
    )
    .addOption(
      new Option(
        '--unit <bytes>',
        'what the disk writes whole or not at all (default: as the log says, or 4096)',
      ).choices(['512', '4096']),
    )
    .option(
      '--seed <number>',
      'determines which states are tried (default: as the log says, or 0)',
      parseSeed,
    )
}

function readOver(text: string): BaseBackend {
  if (!text.startsWith('{')) return file(resolve(text))
  return checkStack(parseJson(text)) as BaseBackend
}

/** Has the server of a recorded disk write its log, and puts behind it what is known of the disk. Nothing is left if that fails. */
export async function exportLog(disk: UblkDevice, path: string, signal: AbortSignal): Promise<void> {
  const log = resolve(path)
  const beginning = beginningOf(disk)
  await disk.exportLog(log, { signal })
  try {
    await appendBeginning(log, beginning)
  } catch (cause) {
    rmSync(log, { force: true })
    throw new UblkError('backend', `cannot write ${log}: ${(cause as Error).message}`, { cause })
  }
}

/** A disk with what a log has, in this process: of a file, or of a disk that is still served. */
export async function openLog(log: string, flags: LogFlags, signal: AbortSignal): Promise<ServedDevice> {
  const { UblkDevice } = await loadApi()
  if (isFile(log)) return await replayed(resolve(log), flags, signal)
  const id = deviceIn(log)
  const disk = await UblkDevice.open(id)
  const dir = mkdtempSync(join(tmpdir(), 'ublk-ts-crash-'))
  try {
    const path = join(dir, 'log')
    await exportLog(disk, path, signal)
    const { over } = beginningOf(disk)
    // Its disk is known, and trusted.
    return await replayed(
      path,
      { ...(over !== undefined && { over: checkStack(over) as BaseBackend }), ...flags },
      signal,
    )
  } finally {
    rmSync(dir, { recursive: true, force: true }) // It is read when the disk is made.
  }
}

async function replayed(path: string, flags: LogFlags, signal: AbortSignal): Promise<ServedDevice> {
  const { UblkDevice } = await loadApi()
  const backend = powercut(replayOptions(path, await readBeginning(path), flags))
  return await UblkDevice.create({ backend, signal })
}

/** What the flags say, else the log. */
function replayOptions(
  replay: string,
  beginning: Partial<Beginning>,
  { over, size = beginning.size, unit, seed = beginning.seed }: LogFlags,
): PowercutOptions {
  if (beginning.over !== undefined && over === undefined) {
    // A file from elsewhere does not decide what is opened here.
    throw invalid(
      'the recording began with the content of another disk',
      `give it: --over ${wordFor(beginning.over)}`,
    )
  }
  return {
    replay,
    ...(over === undefined ? size !== undefined && { size } : { over }),
    unit: Number(unit ?? beginning.unit ?? 4096) as 512 | 4096,
    ...(seed !== undefined && { seed }),
  }
}

/** A backend as `--over` takes it. */
function wordFor(over: unknown): string {
  const { kind, path } = over as { kind?: unknown; path?: unknown }
  return kind === 'file' && typeof path === 'string' ? path : `'${JSON.stringify(over)}'`
}

function isFile(path: string): boolean {
  try {
    return statSync(path).isFile()
  } catch {
    return false
  }
}

function deviceIn(log: string): number {
  try {
    return idOf(log)
  } catch {
    throw new UblkError('not-found', `there is no log ${log}`, { hint: 'crash export writes one' })
  }
}

function beginningOf(disk: UblkDevice): Beginning {
  const found = nodesOf(readBackend(disk.id)).find(({ kind }) => kind.name === 'powercut')
  const { unit = 4096, seed = 0, over } = (found?.backend ?? {}) as Partial<PowercutBackend>
  return { size: disk.size, unit, seed, ...(over !== undefined && { over }) }
}
