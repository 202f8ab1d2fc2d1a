import { resolve } from 'node:path'
import { type Command, Option } from 'commander'
import { type Job, type JobLog, LEVELS, type Level } from '../daemon/job.js'
import { logsToJournal } from '../daemon/journal.js'
import { invalid } from '../errors.js'
import { parseSeconds } from '../option-values.js'
import type { ServedDevice } from '../served-device.js'
import { announcement } from './device-table.js'
import { loadApi } from './load-api.js'
import { reading } from './option-reader.js'
import { print } from './output.js'
import { SERVER_PROGRAM } from './server-program.js'
import { printRequests } from './trace-lines.js'

/** The flags of a command that say how a disk is served. */
export interface ServingFlags {
  detach?: boolean
  autoRestart?: boolean
  timeout: number
  logFile?: string
  logLevel?: Level
  json?: boolean
}

/** Adds the options that say how a disk is served to a command. */
export function addServingOptions(command: Command): Command {
  return command
    .option('-d, --detach', 'serve it in the background')
    .option('--auto-restart', 'with recovery: start a new server when this one dies')
    .option(
      '-t, --timeout <seconds>',
      'how long the disk may take to become usable',
      reading(parseSeconds),
      60,
    )
    .option('--log-file <path>', 'with --detach: the log file (default: <n>.log in the run directory)')
    .addOption(
      new Option('--log-level <level>', 'how much to log (default: warning; with --detach: info)').choices(
        LEVELS,
      ),
    )
    .option('-J, --json', 'print one line of JSON instead of the path')
}

/** The part of a job that these flags make. */
export type Serving = Pick<Job, 'announce' | 'timeout' | 'log' | 'autoRestart' | 'notes'>

/** Checks the flags. */
export function toServing(flags: ServingFlags): Serving {
  const { detach = false, autoRestart = false, timeout, logFile, json } = flags
  if (logFile !== undefined && !detach) throw invalid('--log-file is only for --detach')
  if (timeout === 0) throw invalid('the timeout is 0')
  return {
    announce: json ? 'json' : 'path',
    timeout: timeout * 1000,
    log: logFor(flags),
    autoRestart,
    notes: { detached: detach, autoRestart },
  }
}

function logFor({ detach, logFile, logLevel }: ServingFlags): JobLog {
  const path = logFile === undefined ? null : resolve(logFile)
  if (detach) return { form: 'json', level: logLevel ?? 'info', path, nameless: false }
  if (logsToJournal()) return { form: 'journal', level: logLevel ?? 'info', path, nameless: false }
  return { form: 'plain', level: logLevel ?? 'warning', path, nameless: false }
}

/** Runs the job, in this process or in the background. In this process it can print each request on stderr. */
export async function startServing(
  job: Job,
  { detached, trace = false }: { detached: boolean; trace?: boolean },
): Promise<void> {
  await loadApi()
  const { interrupts } = await import('../daemon/interrupts.js')
  // To a service SIGHUP means to open its logs again: the journal needs none of that.
  const stop = interrupts({ hangup: logsToJournal() ? 'ignore' : 'end' })
  const announce = async ({ line }: { line: string }): Promise<void> => await print(line)
  if (detached) {
    const { startDetached } = await import('../daemon/start-detached.js')
    return await startDetached(SERVER_PROGRAM, job, stop.first, announce)
  }
  const { openLog } = await import('../daemon/log.js')
  const { runJob } = await import('../daemon/run-job.js')
  let traced: Promise<void> | undefined
  const usable = (disk: ServedDevice): void => {
    if (trace) traced = disk.trace(printRequests)
  }
  const log = openLog(job.log)
  try {
    await runJob(job, { log, interrupts: stop, program: SERVER_PROGRAM, usable, announcement, announce })
  } finally {
    await traced
  }
}
