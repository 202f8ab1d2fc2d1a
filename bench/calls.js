// The servers' system calls, counted by strace. It slows them down, so that with many requests in flight each call finds
// more of them than it would undisturbed: compare the two servers only.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { runFio } from './fio.js'
import { firstLine } from './server.js'

const REQUESTS = 5000
const LARGE = 100

/** Counts the server's io_uring_enter calls, and all its others, during some thousand requests, or a hundred large ones. */
export async function countCalls(disk, workload) {
  const file = join(tmpdir(), 'calls')
  const strace = spawn('strace', ['-f', '-c', '-U', 'name,calls', '-o', file, '-p', `${disk.pid}`], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  const exit = once(strace, 'exit')
  await firstLine(strace.stderr) // "Process 82 attached with 4 threads"
  const { requests } = await runFio(disk, workload, [
    `--number_ios=${/-\d+m-/.test(workload) ? LARGE : REQUESTS}`,
  ])
  strace.kill('SIGINT')
  await exit
  const calls = new Map(
    Array.from(readFileSync(file, 'utf8').matchAll(/^\s*(\w+)\s+(\d+)$/gm), ([, name, count]) => [
      name,
      Number(count),
    ]),
  )
  const enters = calls.get('io_uring_enter') ?? 0
  return { requests, enters, others: (calls.get('total') ?? enters) - enters }
}
