import { readdirSync, readFileSync } from 'node:fs'

/** A thread of a process. */
export interface Thread {
  readonly id: string
  readonly name: string
  /** What the kernel says of it, as in `/proc/PID/status`. */
  readonly status: string
}

/** The threads of a process, but for those that end while it is looked. */
export function threadsOf(pid: number | 'self'): Thread[] {
  return readdirSync(`/proc/${pid}/task`).flatMap(id => {
    try {
      const status = readFileSync(`/proc/${pid}/task/${id}/status`, 'utf8')
      return [{ id, name: fieldOf(status, 'Name'), status }]
    } catch {
      return []
    }
  })
}

/** A field of a process's or thread's status. */
export function fieldOf(status: string, name: string): string {
  return new RegExp(`^${name}:\\s*(.*)$`, 'm').exec(status)?.[1] ?? ''
}
