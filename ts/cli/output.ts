import { readFileSync, readlinkSync } from 'node:fs'
import { UblkError } from '../errors.js'
import { printable } from '../printable.js'

/** Writes one or more lines on stdout, and fails if they cannot be written. */
export async function print(text: string): Promise<void> {
  if (stdoutIsClosed()) throw unwritable('it is closed')
  const error = await new Promise<Error | null | undefined>(resolve => {
    process.stdout.once('error', resolve) // Without a listener it would end the process with a stack trace.
    process.stdout.write(text.endsWith('\n') ? text : `${text}\n`, error => {
      if (!error) process.stdout.off('error', resolve) // Else it is still to come.
      resolve(error)
    })
  })
  if (error) throw unwritable(error.message)
}

/** Writes one line for the user on stderr. */
export function complain(line: string): void {
  process.stderr.write(`ublk-ts: ${printable(line)}\n`)
}

/** Keeps a closed stderr from ending the process. */
export function ignoreClosedStderr(): void {
  process.stderr.on('error', () => {})
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
