import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { result, shell } from './program.js'
import { until } from './server.js'

/** A server of the network block device protocol, which can be killed and started again. */
export class NbdServer implements AsyncDisposable {
  #child: ChildProcess | undefined

  private constructor(
    readonly command: string,
    readonly where: string | number,
  ) {}

  /** Starts a server with this command, and waits until it listens on a Unix socket, or on a port of loopback. */
  static async start(command: string, where: string | number): Promise<NbdServer> {
    const server = new NbdServer(command, where)
    await server.start()
    return server
  }

  /** nbdkit with these words on a socket. */
  static async nbdkit(words: string, socket: string): Promise<NbdServer> {
    return await NbdServer.start(`nbdkit -f -U ${socket} ${words}`, socket)
  }

  async start(): Promise<void> {
    if (typeof this.where === 'string') rmSync(this.where, { force: true })
    const child = spawn('bash', ['-c', `exec ${this.command}`], { stdio: ['ignore', 'ignore', 'inherit'] })
    this.#child = child
    await until(async () => child.exitCode !== null || (await this.#listens()), `${this.command} listens`)
    if (child.exitCode !== null) throw new Error(`${this.command} ended with status ${child.exitCode}`)
  }

  async #listens(): Promise<boolean> {
    if (typeof this.where === 'string') return existsSync(this.where)
    const socket = connect(this.where, '127.0.0.1')
    try {
      await once(socket, 'connect')
      return true
    } catch {
      return false
    } finally {
      socket.destroy()
    }
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

/** fio, which writes blocks at random and then reads all of them. */
export async function verify(path: string, words = ''): Promise<string> {
  const { status, stdout, stderr } = await result(
    shell(
      `cd /tmp; fio --name=x --filename="$1" --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite \
       --bsrange=4k-256k --size=24m --verify=crc32c --verify_fatal=1 --verify_state_save=0 --output-format=terse $2`,
      path,
      words,
    ),
  )
  return status === 0 ? '' : `status ${status}: ${stderr}${stdout}`
}
