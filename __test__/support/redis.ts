import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { dirname } from 'node:path'
import { sh } from './program.js'
import { until } from './server.js'

/** A Redis server that keeps nothing on disk, at a Unix socket. */
export class Redis implements AsyncDisposable {
  readonly #child: ChildProcess
  readonly #socket: string

  private constructor(child: ChildProcess, socket: string) {
    this.#child = child
    this.#socket = socket
  }

  /** Starts it and waits until it answers. */
  static async start(socket: string): Promise<Redis> {
    const words = `--port 0 --unixsocket ${socket} --dir ${dirname(socket)} --appendonly no`
    const redis = new Redis(
      spawn('redis-server', [...words.split(' '), '--save', ''], { stdio: 'ignore' }),
      socket,
    )
    await until(async () => (await redis.ask('ping || true')).includes('PONG'), 'redis-server answers')
    return redis
  }

  /** What it answers to a command. */
  async ask(command: string): Promise<string> {
    return await sh(`redis-cli -s "$1" ${command}`, this.#socket)
  }

  /** Ends it as a crash would. */
  async kill(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    this.#child.kill('SIGKILL')
    await once(this.#child, 'exit')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill()
  }
}
