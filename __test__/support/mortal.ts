import { UblkDevice } from 'ublk-ts'
import type { Mode } from './modes.js'
import { Server } from './server.js'

/** The size of the disks, in bytes. */
export const SIZE = 32 * 2 ** 20

/** What such a disk can be served with: an expression, of a module that outlives its process in that directory. */
export const BACKENDS = {
  memory: (dir: string): string => `memory(${SIZE}, { file: '${dir}/disk' })`,
  file: (dir: string): string => `file('${dir}/disk')`,
  stripe: (dir: string): string => `stripe([file('${dir}/left'), file('${dir}/right')], { chunk: '16K' })`,
  overlay: (dir: string): string => `overlay(file('${dir}/disk'), { upper: '${dir}/upper' })`,
  JavaScript: (dir: string): string =>
    `worker('${new URL('../backends/in-file.js', import.meta.url)}', { path: '${dir}/disk', size: ${SIZE} })`,
}

export type BackendName = keyof typeof BACKENDS
export type Recovery = 'requeue' | 'reissue' | 'fail'

/** A disk whose server is killed again and again, and replaced by another process each time. */
export class Mortal {
  readonly id: number
  readonly path: string
  readonly #backend: string
  #server: Server

  private constructor(server: Server, backend: string) {
    this.#server = server
    this.#backend = backend
    this.id = server.id
    this.path = server.path
  }

  /** Makes it, with its bytes in `dir`, to be served as `mode` says or as it is by itself. */
  static async make(backend: BackendName, recovery: Recovery, dir: string, mode?: Mode): Promise<Mortal> {
    const text = BACKENDS[backend](dir)
    const looks = JSON.stringify({ queues: 2, recovery, ...mode })
    return new Mortal(await serve(`create({ backend: ${text}, ...${looks} })`), text)
  }

  /** How it is served. */
  async mode(): Promise<Mode> {
    const { transport, copy } = await (await UblkDevice.open(this.id)).info()
    return { transport, copy }
  }

  /** Kills its server, wherever that is, and has another one take over. */
  async killed(): Promise<void> {
    await this.#server.interrupt('SIGKILL')
    this.#server = await serve(`recover(${this.id}, { backend: ${this.#backend} })`)
  }

  async delete(): Promise<void> {
    await (await UblkDevice.open(this.id)).delete()
    await this.#server.ended
  }
}

async function serve(made: string): Promise<Server> {
  return await Server.program(`
    import { file, memory, overlay, stripe, UblkDevice, worker } from 'ublk-ts'
    const disk = await UblkDevice.${made}
    console.log(disk.path)
  `)
}

/** Numbers from 0 to below 1 that are the same for the same seed (mulberry32). */
export function randomNumbers(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}
