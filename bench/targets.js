// The disks that are measured. Each has a name, a path, the pid of its server, place() and stop().

import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { promisify } from 'node:util'
import { SPAN } from './fio.js'

const execute = promisify(execFile)
const cli = join(import.meta.dirname, '../dist/cli/main.js')

/** The name of the disk that ours are compared with. */
export const BASE = 'kublk'

/** What both get. */
export const QUEUES = 1
export const DEPTH = 128

/** kublk's null disk, with its own default transport. */
export async function startKublk(program) {
  const { stdout } = await execute(program, ['add', '-t', 'null', '-q', `${QUEUES}`, '-d', `${DEPTH}`])
  const [, id] = stdout.match(/dev id (\d+):/)
  const [, pid] = stdout.match(/daemon pid (\d+)/)
  const [, cpu] = stdout.match(/affinity\((\d+)/)
  return {
    name: BASE,
    path: `/dev/ublkb${id}`,
    pid: Number(pid),
    /** The CPU that it has bound itself to. */
    cpu,
    place: () => {},
    stop: () => execute(program, ['del', '-n', id]),
  }
}

/** One of our disks, through the command line. */
export async function startOurs(name) {
  const backend = { null: '--null', memory: '--mem' }[name]
  const server = spawn(
    process.execPath,
    [cli, 'create', backend, `${SPAN}M`, '--queues', `${QUEUES}`, '--depth', `${DEPTH}`],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  )
  const path = await firstLine(server.stdout)
  // A disk in use: its memory is there, and reading it is not reading the one page of zeroes.
  if (name === 'memory')
    await execute('dd', ['if=/dev/zero', `of=${path}`, 'bs=1M', `count=${SPAN}`, 'oflag=direct'])
  return {
    name,
    path,
    pid: server.pid,
    /** Lets it run on these CPUs only. */
    place: cpus => execute('taskset', ['-a', '-c', '-p', cpus, `${server.pid}`]),
    stop: async () => {
      server.kill('SIGINT')
      await once(server, 'exit')
    },
  }
}

/** Waits for what a program says first. */
export async function firstLine(stream) {
  for await (const line of createInterface({ input: stream })) return line
  throw new Error('a program ended before it was ready')
}

/** How often the threads of a process have gone to sleep. */
export function readSleeps(pid) {
  const tasks = `/proc/${pid}/task`
  let sum = 0
  for (const task of readdirSync(tasks)) {
    const [, count] = readFileSync(`${tasks}/${task}/status`, 'utf8').match(
      /^voluntary_ctxt_switches:\s*(\d+)/m,
    )
    sum += Number(count)
  }
  return sum
}
