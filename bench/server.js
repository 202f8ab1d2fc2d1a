// A disk's server: a program that is started, says when it is ready, and is ended again, however it behaves.

import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { promisify } from 'node:util'

const execute = promisify(execFile)
/** The command line program. */
export const cli = join(import.meta.dirname, '../dist/bin/ublk-ts.cjs')
/** In QEMU everything takes long. */
const PATIENCE = process.env.UBLK_TS_VM === 'qemu' ? 120_000 : 20_000

/** A disk that is not available, or does not answer; its message says why. */
export class Absent extends Error {}

/**
 * Starts a program that serves a disk in its foreground. `ready` finds the disk's path, or the number of the device, in
 * a line of what it says; `remove` makes the words of a command that ends it, where that is not SIGINT.
 */
export async function serve([program, ...words], { ready = /^(\/dev\/\w+)$/, remove, env } = {}) {
  const server = spawn(program, words, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...env },
  })
  const exit = once(server, 'exit')
  const said = []
  const found = new Promise(resolve => {
    for (const stream of [server.stdout, server.stderr]) {
      createInterface({ input: stream }).on('line', line => {
        const match = line.match(ready)
        if (match) resolve(match[1])
        else if (said.length < 20) said.push(line)
      })
    }
  })
  const last = () => said.findLast(line => line.trim() !== '') ?? 'it says nothing'
  const name = await within(PATIENCE, Promise.race([found, exit.then(() => undefined)])).catch(() => null)
  if (!name) {
    server.kill('SIGKILL')
    throw new Absent(name === null ? 'it is not ready in time' : last())
  }
  const path = /^\d+$/.test(name) ? `/dev/ublkb${name}` : name
  return {
    path,
    pid: server.pid,
    cpu: boundTo(server.pid),
    /** Ends it at once. */
    kill: () => server.kill('SIGKILL'),
    stop: async () => {
      if (server.exitCode === null) {
        const [command, ...args] = remove?.(path.replace('/dev/ublkb', '')) ?? [
          'kill',
          '-INT',
          `${server.pid}`,
        ]
        await execute(command, args, { timeout: PATIENCE, killSignal: 'SIGKILL' }).catch(() => {})
      }
      await within(PATIENCE, exit).catch(() => server.kill('SIGKILL'))
      if (path.startsWith('/dev/ublkb') && existsSync(path)) await discard(path)
    },
  }
}

/** Removes a device that its server left. */
async function discard(path) {
  const words = [cli, 'delete', path, '--force']
  try {
    await execute(process.execPath, words, { timeout: PATIENCE, killSignal: 'SIGKILL' })
  } catch (error) {
    // The server may have been about to do it itself.
    if (existsSync(path)) process.stderr.write(`bench: ${path} stays: ${error.stderr || error.message}\n`)
  }
}

/** Waits for something no longer than some milliseconds. */
export async function within(limit, promise) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Absent(`no answer in ${limit / 1000} s`)), limit)
  })
  return await Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

/** The CPU that a server has bound one of its threads to, as servers in C and Rust do with a queue's. */
function boundTo(pid) {
  return tasksOf(pid)
    .map(status => status.match(/^Cpus_allowed_list:\s*(\S+)$/m)[1])
    .find(list => /^\d+$/.test(list))
}

/** How often the threads of a process have gone to sleep; of a disk without a server, never. */
export function readSleeps(pid) {
  if (pid === undefined) return 0
  return tasksOf(pid)
    .map(status => Number(status.match(/^voluntary_ctxt_switches:\s*(\d+)/m)[1]))
    .reduce((a, b) => a + b, 0)
}

/** The microseconds of a processor that a process has taken so far, in steps of 10 000. */
export function readCpu(pid) {
  if (pid === undefined) return undefined
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /s, '')
    .split(' ')
  return (Number(fields[11]) + Number(fields[12])) * 10_000
}

function tasksOf(pid) {
  const tasks = `/proc/${pid}/task`
  return readdirSync(tasks).flatMap(task => {
    try {
      return [readFileSync(`${tasks}/${task}/status`, 'utf8')]
    } catch {
      return [] // it has just ended
    }
  })
}

/** Waits for what a program says first. */
export async function firstLine(stream) {
  for await (const line of createInterface({ input: stream })) return line
  throw new Error('a program ended before it was ready')
}
