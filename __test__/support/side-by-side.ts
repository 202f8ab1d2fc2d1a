import type { ExecutionContext, TestFn } from 'ava'

/** A part of a test that does not touch what others use. */
export interface Job {
  readonly title: string
  run(t: ExecutionContext): Promise<void>
}

/**
 * Makes tests of two jobs each, which run at the same time: most of what a job does is to wait for a process that starts, and
 * that takes one processor.
 */
export function sideBySide(test: TestFn, jobs: readonly Job[]): void {
  for (let at = 0; at < jobs.length; at += 2) {
    const both = jobs.slice(at, at + 2)
    test(both.map(({ title }) => title).join(' | '), async t => {
      const ended = await Promise.allSettled(both.map(async job => await job.run(t)))
      for (const [number, outcome] of ended.entries()) {
        if (outcome.status === 'rejected') t.fail(`${both[number]?.title}: ${outcome.reason?.stack}`)
      }
    })
  }
}
