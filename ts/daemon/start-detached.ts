import { closeSync, openSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { UblkError } from '../errors.js'
import { isFull } from '../remote/private-file.js'
import { readRecord } from '../remote/record-file.js'
import { openRunDir, runDir } from '../remote/run-dir.js'
import type { Job, JobLog } from './job.js'
import { newNamelessLog, sweepNamelessLogs } from './nameless-log.js'
import { type Ready, ServerProcess } from './server-process.js'

/**
 * Starts a server in a session of its own, and returns when its disk is usable and that has been announced. If that
 * fails nothing is left.
 *
 * @param program - As for {@link ServerProcess}.
 * @throws Failed with what the server says; UblkError if it dies or hangs, or this process is interrupted.
 */
export async function startDetached(
  program: readonly string[],
  job: Job,
  interrupted: AbortSignal,
  announce: (ready: Ready) => Promise<void>,
): Promise<void> {
  const { log, file } = openLog(job)
  let server: ServerProcess
  try {
    server = new ServerProcess(program, { ...job, log }, file, {
      lastWords: () => (log.path === null ? undefined : lastWords(log.path)),
    })
  } finally {
    closeSync(file)
  }
  let usable = false
  try {
    const disk = await server.ready(interrupted)
    await server.letGo()
    usable = true
    await announce(disk)
    if (!isRecorded(disk.id, job.autoRestart ? undefined : server.pid))
      process.emitWarning(unrecorded(disk.id))
  } catch (error) {
    // An existing device continues, although it cannot be announced.
    if (!usable || job.action === 'create') await undo(server, { ...job, log })
    throw error
  } finally {
    server.unref()
  }
}

/**
 * Checks that other processes can find it; an existing disk is served even if they cannot.
 *
 * @param pid - The server's, if known; a supervisor's server is another process.
 */
function isRecorded(id: number, pid: number | undefined): boolean {
  const found = readRecord(id)
  return found.state === 'served' && (pid === undefined || found.record.server.pid === pid)
}

function unrecorded(id: number): UblkError {
  return new UblkError('system', `device ${id} is served, but its record could not be written`, {
    device: id,
    hint: `free space in ${runDir()}: until then no other command finds its server, and it cannot be recovered`,
  })
}

async function undo(server: ServerProcess, { action, log, scratch }: Job): Promise<void> {
  await server.end()
  if (log.nameless && log.path !== null) rmSync(log.path, { force: true })
  if (action === 'create') for (const file of scratch) rmSync(file, { force: true })
}

function logFile({ action, id, log }: Job): Job['log'] & { path: string } {
  const dir = openRunDir()
  if (log.path !== null) return { ...log, path: log.path }
  // The number of a device that does not exist yet may belong to another one.
  if (action !== 'create') return { ...log, path: join(dir, `${id}.log`) }
  sweepNamelessLogs(dir)
  return { ...log, path: newNamelessLog(dir), nameless: true }
}

function openLog(job: Job): { log: JobLog; file: number } {
  const log = logFile(job)
  const { path } = log
  try {
    return { log, file: openSync(path, log.nameless ? 'ax' : 'a', 0o600) }
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    const failed = new UblkError('system', `cannot log to ${path}: ${code}`, { cause })
    if (job.action === 'create' || !isFull(cause)) throw failed
    // An existing disk matters more than its log.
    process.emitWarning(failed)
    return { log: { ...log, path: null }, file: openSync('/dev/null', 'a') }
  }
}

/** The last line of a server's log. */
function lastWords(path: string): string | undefined {
  try {
    const line = readFileSync(path, 'utf8').trim().split('\n').at(-1) ?? ''
    const text = line.startsWith('{') ? (JSON.parse(line) as { message: string }).message : line
    return text === '' ? undefined : text
  } catch {
    return undefined
  }
}
