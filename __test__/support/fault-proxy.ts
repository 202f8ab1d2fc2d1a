import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

/** What goes wrong between a client and a server. */
export type Fault =
  /** Connections end, and there are no new ones. */
  | 'cut'
  /** Connections are reset, new ones as well. */
  | 'reset'
  /** Nothing is passed on until that is over. */
  | 'stall'
  /** The server is gone, and the client is not told: what it sends is taken, and never answered, also when that is over. */
  | 'half-open'
  /** So many bytes a second in each direction, for all connections together. */
  | { bandwidth: number }
  /** Each piece of data arrives so many milliseconds later. */
  | { latency: number }

/** Passes TCP connections on to a server, and does harm to them. */
export class FaultProxy implements AsyncDisposable {
  #fault: Fault | undefined
  #wake: () => void = () => {}
  #changed = Promise.resolve()
  readonly #pairs = new Set<[client: Socket, server: Socket]>()
  readonly #server: Server
  /** When what was passed on last, in each direction, has gone through the narrow place. */
  readonly #free = { up: 0, down: 0 }

  private constructor(
    private readonly target: number,
    readonly port: number,
    server: Server,
  ) {
    this.#server = server.on('connection', client => this.#join(client))
    this.#arm()
  }

  /** Passes on to a port of this machine. */
  static async start(target: number, port = 0): Promise<FaultProxy> {
    const server = createServer({ allowHalfOpen: false })
    server.listen(port, '127.0.0.1')
    await once(server, 'listening')
    return new FaultProxy(target, (server.address() as AddressInfo).port, server)
  }

  /** From here on. `undefined`: nothing goes wrong any more. */
  set(fault: Fault | undefined): void {
    this.#fault = fault
    for (const [client, server] of this.#pairs) {
      if (fault === 'cut') {
        client.destroy()
        server.destroy()
      } else if (fault === 'reset') {
        client.resetAndDestroy()
        server.destroy()
      } else if (fault === 'half-open') server.destroy()
    }
    this.#wake()
    this.#arm()
  }

  /** That goes wrong for so long. */
  async during(fault: Fault, milliseconds: number): Promise<void> {
    this.set(fault)
    await sleep(milliseconds)
    this.set(undefined)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.set('cut')
    this.#server.close()
    await once(this.#server, 'close')
  }

  #arm(): void {
    this.#changed = new Promise(resolve => {
      this.#wake = resolve
    })
  }

  #join(client: Socket): void {
    client.on('error', () => {})
    if (this.#fault === 'cut') {
      client.destroy()
      return
    }
    if (this.#fault === 'reset') {
      client.resetAndDestroy()
      return
    }
    const server = connect(this.target, '127.0.0.1')
    server.on('error', () => {})
    client.setNoDelay(true)
    server.setNoDelay(true)
    const pair: [Socket, Socket] = [client, server]
    this.#pairs.add(pair)
    // A client that is not told that the server is gone keeps its connection.
    const lost = (): boolean => this.#fault === 'half-open' || !this.#pairs.has(pair)
    if (this.#fault === 'half-open') server.destroy()
    client.once('close', () => {
      this.#pairs.delete(pair)
      server.destroy()
    })
    server.once('close', () => {
      if (this.#fault !== 'half-open') client.end()
    })
    void this.#pass(client, server, 'up', lost)
    void this.#pass(server, client, 'down', lost)
  }

  async #pass(from: Socket, to: Socket, way: 'up' | 'down', lost: () => boolean): Promise<void> {
    try {
      for await (const data of from.iterator({ destroyOnReturn: false })) {
        while (this.#fault === 'stall') await this.#changed
        const wait = this.#delay(way, (data as Buffer).length)
        if (wait > 0) await sleep(wait)
        if (to.destroyed) {
          if (way === 'up' && lost()) continue
          break
        }
        if (!to.write(data as Buffer)) await Promise.race([once(to, 'drain'), once(to, 'close')])
      }
    } catch {} // It was cut.
    if (!to.destroyed && !lost()) to.end()
  }

  #delay(way: 'up' | 'down', length: number): number {
    if (typeof this.#fault !== 'object') return 0
    if ('latency' in this.#fault) return this.#fault.latency
    const now = performance.now()
    this.#free[way] = Math.max(this.#free[way], now) + (length / this.#fault.bandwidth) * 1000
    return this.#free[way] - now
  }
}
