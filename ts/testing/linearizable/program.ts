/**
 * The process of a check, or of several, one after the other. It is a process of its own since a thread that waits for a request cannot be ended: if the disk hangs,
 * this process is stuck, and not the one that serves the disk.
 */
import { wrap } from '../../errors.js'
import type { FromProgram, Job } from './job.js'
import { Run } from './run.js'
import { Writers } from './writers.js'

const writers = new Writers()

/** How often it looks whether there is progress, in milliseconds. */
const OFTEN = 500

process.once('disconnect', () => process.exit(1))
process.on('message', job => {
  work(job as Job).catch(error => {
    const { kind, message, hint } = wrap(error)
    say({ type: 'failed', kind, message, hint })
  })
})

async function work(job: Job): Promise<void> {
  const run = new Run(job, writers)
  let before = 0
  const timer = setInterval(() => {
    if (run.done !== before) say({ type: 'progress' })
    before = run.done
  }, OFTEN)
  await run.work().finally(() => clearInterval(timer))
  say({ type: 'checking' })
  say({ type: 'seen', seen: run.check() })
}

function say(message: FromProgram): void {
  process.send?.(message)
}
