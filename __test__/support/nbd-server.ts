import { rmSync } from 'node:fs'
import { result, shell } from './program.js'
import { ServerProgram } from './server-program.js'

/** A server of the network block device protocol. */
export class NbdServer extends ServerProgram {
  private constructor(
    readonly command: string,
    readonly where: string | number,
  ) {
    super()
  }

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
    await this.spawn(['bash', '-c', `exec ${this.command}`], this.where)
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
