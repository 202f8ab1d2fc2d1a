import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

/** The command line program. */
export const MAIN = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))

/** How a program ended. */
export interface Result {
  status: number | null
  signal: NodeJS.Signals | null
  stdout: string
  stderr: string
}

/** Runs `ublk-ts` to its end. */
export async function run(...args: string[]): Promise<Result> {
  return await result(spawn(process.execPath, [MAIN, ...args], { stdio: ['ignore', 'pipe', 'pipe'] }))
}

/** The same through bash, with redirections. */
run.shell = async (line: string): Promise<Result> =>
  await result(
    spawn('bash', ['-c', `"$0" "$1" ${line}`, process.execPath, MAIN], { stdio: ['ignore', 'pipe', 'pipe'] }),
  )

/** Runs any program to its end. */
export async function exec(command: string, ...args: string[]): Promise<Result> {
  return await result(spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] }))
}

/** Collects what a child says until it has ended. */
export async function result(child: ChildProcess): Promise<Result> {
  let stdout = ''
  let stderr = ''
  child.stdout?.setEncoding('utf8').on('data', text => {
    stdout += text
  })
  child.stderr?.setEncoding('utf8').on('data', text => {
    stderr += text
  })
  const [status, signal] = await once(child, 'close')
  return { status, signal, stdout, stderr }
}
