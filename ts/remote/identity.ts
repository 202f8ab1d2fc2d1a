/** What the system says about itself, its processes and its devices, as records need it. */
import { lstatSync, readFileSync, statSync } from 'node:fs'

/** Tells this boot of the machine from others. */
export function bootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
}

/**
 * Tells a device from a later one of the same number: sysfs gives no number of an entry twice. Undefined if there is
 * no such device.
 */
export function identityOf(id: number): string | undefined {
  const entry = statSync(`/sys/class/ublk-char/ublkc${id}/`, { bigint: true, throwIfNoEntry: false })
  return entry?.ino.toString()
}

/** A process, and when it was started: its number alone may be another's by now. */
export interface ProcessMark {
  /** Its number. */
  readonly pid: number
  /** When it was started, in clock ticks since the boot. */
  readonly started: number
}

/** The mark of a process; undefined if there is none of that number, or it has ended. */
export function markOf(pid: number): ProcessMark | undefined {
  let stat: string
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  } catch {
    return undefined
  }
  // The name, second and in parentheses, may hold anything.
  const [state, ...fields] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  if (state === 'Z' || state === 'X') return undefined
  const FIRST = 4
  return { pid, started: Number(fields[22 - FIRST]) }
}

/** Whether that process runs. */
export function runs({ pid, started }: ProcessMark): boolean {
  return markOf(pid)?.started === started
}

/** The inode at a path; undefined if there is nothing. */
export function inodeOf(path: string): string | undefined {
  return lstatSync(path, { bigint: true, throwIfNoEntry: false })?.ino.toString()
}
