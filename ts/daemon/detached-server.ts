/** The messages between a server in its own process and the process that started it, until the disk is usable. */
import { UblkError } from '../errors.js'
import { interrupts } from './interrupts.js'
import type { Job } from './job.js'
import { openLog } from './log.js'
import { logPathOf, removeOwnNamelessLog } from './nameless-log.js'
import { runJob } from './run-job.js'
import type { Hosting } from './serve-disk.js'

/** Messages to the server: its job; and then that its parent knows the disk is usable, and leaves it. */
export type ToServer = { readonly type: 'job'; readonly job: Job } | { readonly type: 'go' }

/** Messages from the server: that the disk is usable, with the announcement; or why it failed. */
export type FromServer =
  | { readonly type: 'ready'; readonly id: number; readonly line: string; readonly paused?: number }
  | { readonly type: 'failed'; readonly line: string; readonly status: 1 | 2 }

/** What the command line provides: the program of a server in a further process, and how to print results. */
export interface CommandLine extends Pick<Hosting, 'program' | 'announcement'> {
  failure(error: unknown): { line: string; status: 1 | 2 }
}

/** Serves a disk for the process that started this one, and outlives that process. Returns the exit status. */
export async function serveDetached({ program, announcement, failure }: CommandLine): Promise<0 | 1 | 2> {
  const parent = new Parent()
  const job = await parent.job.catch((error: unknown) => {
    removeOwnNamelessLog()
    throw error
  })
  process.chdir('/') // No directory is kept busy, and what depends on one fails now rather than when it recovers.
  const log = openLog(job.log)
  let { path } = job.log
  const announce: Hosting['announce'] = async disk => {
    if (job.log.nameless) path = logPathOf(disk.id)
    try {
      await parent.tell({ type: 'ready', ...disk })
      await parent.go
    } finally {
      // Serving an existing disk continues, although the parent could not be notified.
      process.title = `ublk-ts: /dev/ublkb${disk.id}`
    }
  }
  const stop = interrupts({ hangup: () => path !== null && log.reopen(path) })
  try {
    await runJob(job, { log, interrupts: stop, program, unwanted: parent.lost, announcement, announce })
    return 0
  } catch (error) {
    const { line, status } = failure(error)
    log.error(line)
    const told = await parent.tell({ type: 'failed', line, status }).then(
      () => true,
      () => false,
    )
    if (!told || parent.lost.aborted) removeOwnNamelessLog()
    return status
  }
}

/** The process that started this one, while it runs. */
class Parent {
  readonly job: Promise<Job>
  /** Fulfilled when it knows that the disk is usable. */
  readonly go: Promise<void>
  /** Aborted when it ends before that. */
  readonly lost: AbortSignal

  constructor() {
    const lost = new AbortController()
    this.lost = lost.signal
    let gone = false
    const told = <T extends ToServer['type']>(type: T): Promise<Extract<ToServer, { type: T }>> =>
      new Promise((resolve, reject) => {
        process.on('message', (message: ToServer) => {
          if (message.type === type) resolve(message as Extract<ToServer, { type: T }>)
        })
        process.once('disconnect', () => reject(orphaned()))
        if (!process.connected) reject(orphaned()) // It ended before.
      })
    this.job = told('job').then(({ job }) => job)
    this.go = told('go').then(() => {
      gone = true
      process.disconnect?.()
    })
    this.go.catch(() => {}) // `lost` says it too.
    process.once('disconnect', () => {
      if (!gone) lost.abort()
    })
  }

  async tell(message: FromServer): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      if (!process.connected || !process.send) reject(orphaned())
      else process.send(message, (error: Error | null) => (error ? reject(error) : resolve()))
    })
  }
}

function orphaned(): UblkError {
  return new UblkError('cancelled', 'the process that started this server has ended')
}
