import type { ServerResponse } from 'node:http'

/** Its name, and a line of JSON. */
export type Event = readonly [name: string, data: string]

/** How many bytes may wait for a page that reads too slowly. */
const MOST_UNREAD = 2 ** 20

/** How long it may take to read them, in milliseconds. */
const PATIENCE = 30_000

/** How often a stream without events has a comment: the page sees that the server is there. */
const BREATH = 15_000

/**
 * Events for a page (server-sent events). A page that reads too slowly misses events, and gets a new beginning once it has
 * read what it has; one that does not read is dropped. So what waits for a page is bounded.
 */
export class Stream {
  readonly #response: ServerResponse
  readonly #beginning: () => readonly Event[]
  #behind: NodeJS.Timeout | undefined
  #missed = false
  readonly #breath: NodeJS.Timeout

  /**
   * @param beginning - All that the page has to know, as it is now. Called at once, and when the page has missed events.
   */
  constructor(response: ServerResponse, beginning: () => readonly Event[]) {
    this.#response = response
    this.#beginning = beginning
    response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' })
    response.write('retry: 2000\n\n')
    this.#breath = setInterval(() => this.#write(':\n\n'), BREATH).unref()
    response.once('close', () => {
      clearInterval(this.#breath)
      clearTimeout(this.#behind)
    })
    this.#begin()
  }

  /** Sends an event, unless the page is behind: it then misses it. `data` is one line. */
  send(event: string, data: string): void {
    this.#write(`event: ${event}\ndata: ${data}\n\n`)
  }

  #begin(): void {
    this.#missed = false
    for (const [event, data] of this.#beginning()) this.send(event, data)
  }

  /** Ends it. */
  close(): void {
    this.#response.destroy()
  }

  #write(text: string): void {
    const response = this.#response
    if (response.destroyed) return
    if (this.#behind) {
      this.#missed = true
      return
    }
    response.write(text)
    if (response.writableLength <= MOST_UNREAD) return
    this.#behind = setTimeout(() => response.destroy(), PATIENCE).unref()
    response.once('drain', () => {
      clearTimeout(this.#behind)
      this.#behind = undefined
      if (this.#missed) this.#begin()
    })
  }
}
