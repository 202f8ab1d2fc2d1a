import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

/** The command line program. */
export const MAIN = fileURLToPath(new URL('../../dist/bin/ublk-ts.cjs', import.meta.url))
/** Node's flags for it: those of the tests. */
export const FLAGS: readonly string[] = process.execArgv

/** How a program ended. */
export interface Result {
  status: number | null
  signal: NodeJS.Signals | null
  stdout: string
  stderr: string
}

const READ_ALL: SpawnOptions = { stdio: ['ignore', 'pipe', 'pipe'] }

/** Runs `ublk-ts` to its end. */
export async function run(...args: string[]): Promise<Result> {
  return await result(spawn(process.execPath, [...FLAGS, MAIN, ...args], READ_ALL))
}

/** The same through bash, where the words may hold redirections and pipes. */
run.shell = async (words: string, env: NodeJS.ProcessEnv = {}): Promise<Result> =>
  await result(
    spawn('bash', ['-c', `"$0" "$1" ${words}`, process.execPath, MAIN], {
      ...READ_ALL,
      env: { ...process.env, ...env },
    }),
  )

/** The same as a user other than root. */
run.as = async (user: string, ...args: string[]): Promise<Result> =>
  await result(spawnAs(user, process.execPath, ...FLAGS, MAIN, ...args))

/** Runs a script in bash, and gives what it prints; fails if any command in it does. */
export async function sh(script: string, ...args: string[]): Promise<string> {
  const { status, signal, stdout, stderr } = await result(shell(script, ...args))
  if (status === 0) return stdout
  throw new Error(`${script}: ${signal ?? `status ${status}`}: ${stderr}${stdout}`)
}

/** Starts a script in bash. */
export function shell(script: string, ...args: string[]): ChildProcess {
  return spawn('bash', ['-euo', 'pipefail', '-c', script, 'bash', ...args], READ_ALL)
}

/** Starts a program as a user who has just logged in. */
export function spawnAs(user: string, program: string, ...args: string[]): ChildProcess {
  const login = ['--reuid', user, '--regid', user, '--init-groups', '--reset-env']
  const environment = [`XDG_RUNTIME_DIR=/home/${user}`, `PATH=${process.env['PATH']}:/usr/sbin:/sbin`]
  return spawn('setpriv', [...login, 'env', ...environment, program, ...args], READ_ALL)
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
