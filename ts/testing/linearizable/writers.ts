import { Worker } from 'node:worker_threads'
import { UblkError } from '../../errors.js'
import type { FromWriter, WriterData, Written } from './job.js'

/** The writers of a process. They stay for further checks, since starting them takes longer than a short check. */
export class Writers {
  readonly #workers: Worker[] = []

  /**
   * Has each writer do its part of a check.
   *
   * @param begin - Called when all of them wait for the beginning.
   */
  async work(data: readonly WriterData[], begin: () => void): Promise<readonly Written[]> {
    while (this.#workers.length < data.length) this.#workers.push(start())
    const parts = data.map((each, index) => part(this.#workers[index] as Worker, each))
    await Promise.all(parts.map(({ ready }) => ready))
    begin()
    return await Promise.all(parts.map(({ written }) => written))
  }
}

function start(): Worker {
  const worker = new Worker(new URL('./writer.js', import.meta.url))
  worker.unref()
  return worker
}

function part(worker: Worker, data: WriterData): { ready: Promise<unknown>; written: Promise<Written> } {
  let begun = (): void => {}
  let finish = (): void => {}
  const ready = new Promise<void>(resolve => {
    begun = resolve
  })
  const written = new Promise<Written>((resolve, reject) => {
    const listen = (message: FromWriter): void => {
      if (message === 'ready') begun()
      else resolve(message)
    }
    const end = (status: number): void => {
      reject(new UblkError('system', `a thread of the check ended with status ${status}`))
    }
    worker.on('message', listen).once('error', reject).once('exit', end)
    worker.postMessage(data)
    finish = () => void worker.off('message', listen).off('error', reject).off('exit', end)
  })
  written.catch(() => {}).finally(() => finish()) // Whoever waits for it gets the failure.
  return { ready: Promise.race([ready, written]), written }
}
