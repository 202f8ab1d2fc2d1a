import { readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs'

/** What must not happen has happened. */
export class Broken extends Error {
  /** @param where - Where everybody was when it was noticed. */
  constructor(
    message: string,
    readonly where = '',
  ) {
    super(message)
  }
}

/** A process that is there. */
export interface Process {
  readonly pid: number
  readonly parent: number
  /** Its state's letter, such as D while it cannot be interrupted. */
  readonly state: string
  /** Its words, or its title. */
  readonly line: string
}

/** All processes of user space; those that end meanwhile are left out. */
export function processes(): Process[] {
  const pids = readdirSync('/proc').filter(name => /^\d+$/.test(name))
  return pids.flatMap(pid => {
    const stat = text(`/proc/${pid}/stat`)
    // pid (name) state parent …; the name may hold anything.
    const [state = '', parent = ''] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    const line = text(`/proc/${pid}/cmdline`).replaceAll('\0', ' ').trim()
    return line === '' || state === 'Z' ? [] : [{ pid: Number(pid), parent: Number(parent), state, line }]
  })
}

/** Those whose environment holds these words. */
export function marked(words: string): Process[] {
  return processes().filter(({ pid }) => text(`/proc/${pid}/environ`).split('\0').includes(words))
}

/** What processes have open below that path. */
export function openFiles(prefix: string): string[] {
  return processes().flatMap(({ pid, line }) =>
    list(`/proc/${pid}/fd`)
      .map(fd => link(`/proc/${pid}/fd/${fd}`))
      .filter(path => path.startsWith(prefix))
      .map(path => `${path} by ${pid} (${line})`),
  )
}

/** Where the threads of our programs are in the kernel, but for those that wait for something to do; the kernel logs those that cannot be interrupted. */
export function stacks(): string {
  const ours = processes().filter(({ line }) => /node|ublk|\bdd\b|fio|mount|mkfs|bash/.test(line))
  try {
    writeFileSync('/proc/sysrq-trigger', 'w')
  } catch {} // Not everywhere.
  return ours
    .map(({ pid, state, line }) => {
      const where = list(`/proc/${pid}/task`).map(task => {
        const stack = text(`/proc/${pid}/task/${task}/stack`).replaceAll(/\[<0>\] |\+0x\S+/g, '')
        return `  ${task} ${text(`/proc/${pid}/task/${task}/comm`).trim()}: ${stack.trim().split('\n').slice(0, 8).join(' ')}`
      })
      const busy = where.filter(task => !/futex_wait_queue|do_epoll_wait/.test(task))
      return [`${pid} ${state} ${line.slice(0, 120)}`, ...busy].join('\n')
    })
    .join('\n')
}

export function text(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

export function list(dir: string): string[] {
  try {
    return readdirSync(dir)
  } catch {
    return []
  }
}

/** Where a process is, and what it has open. */
export function links(process: string): string[] {
  return [`${process}/cwd`, ...list(`${process}/fd`).map(fd => `${process}/fd/${fd}`)].map(link)
}

function link(path: string): string {
  try {
    return readlinkSync(path)
  } catch {
    return ''
  }
}
