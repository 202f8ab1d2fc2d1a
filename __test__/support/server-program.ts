import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { connect } from 'node:net'
import { until } from './server.js'

/** A program of others that serves, and can be killed and started again. */
export class ServerProgram implements AsyncDisposable {
  #child: ChildProcess | undefined

  /** Starts it, and waits until it listens on a Unix socket, or on a port of loopback. */
  protected async spawn(words: readonly string[], where: string | number, env = process.env): Promise<void> {
    const [program = '', ...rest] = words
    const child = spawn(program, rest, { env, stdio: ['ignore', 'ignore', 'inherit'] })
    this.#child = child
    const name = words.join(' ')
    await until(async () => child.exitCode !== null || (await listens(where)), `${name} listens`)
    if (child.exitCode !== null) throw new Error(`${name} ended with status ${child.exitCode}`)
  }

  /** Stops it, so that it keeps its connections and does not answer, or has it go on. */
  signal(name: 'SIGSTOP' | 'SIGCONT'): void {
    this.#child?.kill(name)
  }

  /** Kills it; what it had not made durable is lost with it. */
  async kill(): Promise<void> {
    const child = this.#child
    this.#child = undefined
    if (!child || child.exitCode !== null || child.signalCode !== null) return
    child.kill('SIGKILL')
    await once(child, 'exit')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill()
  }
}

async function listens(where: string | number): Promise<boolean> {
  if (typeof where === 'string') return existsSync(where)
  const socket = connect(where, '127.0.0.1')
  try {
    await once(socket, 'connect')
    return true
  } catch {
    return false
  } finally {
    socket.destroy()
  }
}
