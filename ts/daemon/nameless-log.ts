/** Logs of servers whose device has no number yet. They are named after the process that started the server. */
import { existsSync, readdirSync, readlinkSync, rmSync, statSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { runDir } from '../remote/run-dir.js'

/** How long such a log is left alone after its last line, in milliseconds. */
const STALE = 10 * 60_000

const STDERR = 2

/** The path of a new one, for a server that this process starts. */
export function newNamelessLog(dir: string): string {
  return join(dir, `starting-${process.pid}-${crypto.randomUUID()}.log`)
}

/** The path of the log of a device's server, once the device has a number. */
export function logPathOf(id: number): string {
  return join(runDir(), `${id}.log`)
}

/** The number of the process that started the server, or undefined if the log has another name. */
function starterOf(name: string): string | undefined {
  return /^starting-(\d+)-/.exec(name)?.[1]
}

/** Removes this server's own log, if it still has such a name. The process that started the server cannot: it has ended. */
export function removeOwnNamelessLog(): void {
  try {
    const path = readlinkSync(`/proc/self/fd/${STDERR}`)
    if (dirname(path) === runDir() && starterOf(basename(path)) !== undefined) rmSync(path, { force: true })
  } catch {} // stderr is no file
}

/**
 * Removes those that nobody will: the server and the process that started it were killed. A server in another container may
 * still need its log, so logs are kept for a while.
 */
export function sweepNamelessLogs(dir: string): void {
  for (const name of readdirSync(dir)) {
    const starter = starterOf(name)
    if (starter === undefined || existsSync(`/proc/${starter}`)) continue
    const path = join(dir, name)
    const entry = statSync(path, { throwIfNoEntry: false })
    if (entry && Date.now() - entry.mtimeMs > STALE) rmSync(path, { force: true })
  }
}
