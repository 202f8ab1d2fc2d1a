import { readFileSync, readlinkSync, writeSync } from 'node:fs'
import { UblkError } from '../errors.js'
import { printable } from '../printable.js'

/** Writes one or more lines on stdout, and fails if they cannot be written. */
export async function print(text: string): Promise<void> {
  if (stdoutIsClosed()) throw unwritable('it is closed')
  const rest = unwritten(STDOUT, text.endsWith('\n') ? text : `${text}\n`)
  if (rest.length === 0) return
  const error = await new Promise<Error | null | undefined>(resolve => {
    process.stdout.once('error', resolve) // Without a listener it would end the process with a stack trace.
    process.stdout.write(rest, error => {
      if (!error) process.stdout.off('error', resolve) // Else it is still to come.
      resolve(error)
    })
  })
  if (error) throw unwritable(error.message)
}

/** Writes one line for the user on stderr. */
export function complain(line: string): void {
  toStderr(`ublk-ts: ${printable(line)}\n`)
}

/** Writes a text on stderr. If it is closed, nobody can be told. */
export function toStderr(text: string): void {
  const rest = unwritten(STDERR, text)
  if (rest.length === 0) return
  if (process.stderr.listenerCount('error') === 0) process.stderr.on('error', () => {})
  process.stderr.write(rest)
}

const [STDOUT, STDERR] = [1, 2]

/**
 * Writes a text at once, and gives what could not be written, for one of Node's streams: they wait, and know all errors, but to
 * load them takes longer than most commands.
 */
function unwritten(fd: number, text: string): Uint8Array {
  let rest: Uint8Array = Buffer.from(text)
  try {
    while (rest.length > 0) rest = rest.subarray(writeSync(fd, rest))
  } catch {}
  return rest
}

function unwritable(why: string): UblkError {
  return new UblkError('system', `cannot write to standard output: ${why}`)
}

/**
 * Node opens /dev/null for reading and writing in place of a closed stdout (`>&-`), so that writing
 * seems to succeed. A shell's `>/dev/null` is write-only; a supervisor that gives a writable one on
 * purpose gives it as stdin too.
 */
function stdoutIsClosed(): boolean {
  const O_RDWR = 0o2
  try {
    const flags = /^flags:\s*(\d+)/m.exec(readFileSync('/proc/self/fdinfo/1', 'utf8'))?.[1] ?? '0'
    const readWrite = (Number.parseInt(flags, 8) & 0o3) === O_RDWR
    return readWrite && isNull(1) && !isNull(0)
  } catch {
    return false
  }
}

function isNull(fd: number): boolean {
  return readlinkSync(`/proc/self/fd/${fd}`) === '/dev/null'
}
