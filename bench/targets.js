// The disks that are measured. Each has a name, a path, the pid of its server, place() and stop().

import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { promisify } from 'node:util'
import { SPAN } from './fio.js'
import { startNbd } from './nbd.js'

const execute = promisify(execFile)
/** The command line program. */
export const cli = join(import.meta.dirname, '../dist/cli/main.js')
const javascript = join(import.meta.dirname, 'disks/js.js')
const crowd = join(import.meta.dirname, 'disks/crowd.js')

/** What all get. */
export const QUEUES = 1
export const DEPTH = 128

/** Starts a disk of a suite. `kublk` is the path of that program. */
export async function start(name, kublk) {
  if (name === 'kublk') return await startKublk(kublk)
  if (name === 'null-block') return makeNullBlock(name)
  const nbd = name.startsWith('nbd')
  const disk = nbd ? await startNbd(name) : await startOurs(name)
  // A disk in use: its memory is there, and reading it is not reading the one page of zeroes.
  if (name !== 'null')
    await execute('dd', ['if=/dev/zero', `of=${disk.path}`, 'bs=1M', `count=${SPAN}`, 'oflag=direct'])
  return {
    ...disk,
    name,
    // A request costs it so much that less of it tells enough.
    measures: ({ depth }) => !nbd || depth === 64,
    /** Lets its server run on these CPUs only. */
    place: cpus => execute('taskset', ['-a', '-c', '-p', cpus, `${disk.pid}`]),
  }
}

/** The kernel's disk that keeps nothing and asks nobody: faster than what load and block layer leave to it is none. */
function makeNullBlock(name) {
  const dir = `/sys/kernel/config/nullb/${name}`
  const set = (key, value) => writeFileSync(join(dir, key), `${value}`)
  const form = { size: SPAN, blocksize: 512, queue_mode: 2, irqmode: 0 }
  mkdirSync(dir)
  for (const [key, value] of Object.entries({ ...form, submit_queues: QUEUES, hw_queue_depth: DEPTH })) {
    set(key, value)
  }
  set('power', 1)
  return {
    name,
    path: `/dev/${name}`,
    pid: undefined,
    measures: ({ depth }) => depth === 64,
    place: () => {},
    stop: () => {
      set('power', 0)
      rmdirSync(dir)
    },
  }
}

/** kublk's null disk, with its own default transport. */
async function startKublk(program) {
  const { stdout } = await execute(program, ['add', '-t', 'null', '-q', `${QUEUES}`, '-d', `${DEPTH}`])
  const [, id] = stdout.match(/dev id (\d+):/)
  const [, pid] = stdout.match(/daemon pid (\d+)/)
  const [, cpu] = stdout.match(/affinity\((\d+)/)
  return {
    name: 'kublk',
    path: `/dev/ublkb${id}`,
    pid: Number(pid),
    measures: () => true,
    /** The CPU that it has bound itself to. */
    cpu,
    place: () => {},
    stop: () => execute(program, ['del', '-n', id]),
  }
}

/** A disk of the engine's through the command line, or one that a program of ours serves. */
async function startOurs(name) {
  const native = ['--queues', `${QUEUES}`, '--depth', `${DEPTH}`]
  const bytes = `${SPAN * 2 ** 20}`
  const words = {
    null: [cli, 'create', '--null', bytes, ...native],
    memory: [cli, 'create', '--mem', bytes, ...native],
    shared: [crowd, '0', bytes, `${DEPTH}`],
    crowd: [crowd, '63', bytes, `${DEPTH}`],
  }[name] ?? [javascript, name, bytes, `${DEPTH}`]
  const server = spawn(process.execPath, words, { stdio: ['ignore', 'pipe', 'inherit'] })
  return {
    path: await firstLine(server.stdout),
    pid: server.pid,
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

/** How often the threads of a process have gone to sleep; of a disk without a server, never. */
export function readSleeps(pid) {
  if (pid === undefined) return 0
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
