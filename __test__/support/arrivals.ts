import { type ChannelListener, subscribe, unsubscribe } from 'node:diagnostics_channel'
import { once } from 'node:events'
import type { ServerResponse } from 'node:http'
import { setImmediate as turn } from 'node:timers/promises'

const CHANNEL = 'http.server.request.start'

/** The requests that come to servers of this process. */
export class Arrivals implements Disposable {
  readonly #responses: ServerResponse[] = []
  #came = (): void => {}
  readonly #listener: ChannelListener

  constructor() {
    this.#listener = message => {
      this.#responses.push((message as { response: ServerResponse }).response)
      this.#came()
    }
    subscribe(CHANNEL, this.#listener)
  }

  /** Waits until so many have come, and what the server does at once with each is done. Their answers. */
  async wait(count: number): Promise<ServerResponse[]> {
    while (this.#responses.length < count) {
      await new Promise<void>(resolve => {
        this.#came = resolve
      })
    }
    await turn()
    return this.#responses.slice(0, count)
  }

  [Symbol.dispose](): void {
    unsubscribe(CHANNEL, this.#listener)
  }
}

/** Waits until the server knows that who asked has gone. */
export async function left(response: ServerResponse): Promise<void> {
  if (!response.closed) await once(response, 'close')
}
