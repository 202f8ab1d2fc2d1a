import { wrap } from '../errors.js'
import type { HeatPart } from '../info.js'
import type { Feed } from './feed.js'
import type { Detail, Disk, Heat } from './protocol.js'
import type { Source } from './source.js'
import type { Event, Stream } from './stream.js'

/** How long to wait before a server is asked again that did not answer, in milliseconds. */
const AGAIN = 3000

/** One disk, for all pages that look at it: its server counts where it is read and written as long as one does. */
export class DiskWatch {
  readonly #streams = new Set<Stream>()
  #pages = 0
  #looking: Promise<void> | undefined
  readonly #ended = new AbortController()
  readonly #source: Source
  readonly #feed: Feed
  readonly #id: number
  #detail: Detail = { stack: [], layers: [], lazy: null, faults: null }
  #text = ''
  /** A part that says all: for those who begin to look later. */
  #maps: HeatPart | undefined

  constructor(source: Source, feed: Feed, id: number) {
    this.#source = source
    this.#feed = feed
    this.#id = id
    void this.#count()
  }

  /** How many pages look, or are about to. */
  get size(): number {
    return this.#pages
  }

  /** Counts a page, before it has a stream. */
  enter(): void {
    this.#pages++
  }

  /** That page is gone. */
  leave(stream: Stream | undefined): void {
    this.#pages--
    if (stream) this.#streams.delete(stream)
  }

  /** All that is known of it. */
  beginning(): Event[] {
    const disk: Disk = { id: this.#id, detail: this.#detail, past: this.#feed.pastOf(this.#id) }
    const heat = this.#maps ? [['heat', heatText(this.#maps)] as const] : []
    return [['disk', JSON.stringify(disk)], ...heat]
  }

  add(stream: Stream): void {
    this.#streams.add(stream)
  }

  /** Nobody looks any more. */
  end(): void {
    this.#ended.abort()
    for (const stream of this.#streams) stream.close()
  }

  /**
   * Says what has changed beside its numbers. One look at a time: a file system that does not answer holds up a single one.
   */
  async look(): Promise<void> {
    this.#looking ??= this.#look().finally(() => {
      this.#looking = undefined
    })
    await this.#looking
  }

  async #look(): Promise<void> {
    const detail = await this.#feed.detailOf(this.#id)
    const text = JSON.stringify(detail)
    if (text === this.#text) return
    this.#detail = detail
    this.#text = text
    this.#send('detail', text)
  }

  async #count(): Promise<void> {
    const { signal } = this.#ended
    while (!signal.aborted) {
      await this.#source
        .heat(this.#id, part => this.#take(part), signal)
        .catch(error => {
          const heat: Heat = { part: null, trouble: wrap(error).message }
          this.#send('heat', JSON.stringify(heat))
        })
      if (!signal.aborted) await pause(AGAIN, signal)
    }
  }

  #take(part: HeatPart): void {
    const { size, cell, present, dirty, layered } = { ...this.#maps, ...part }
    const maps = {
      ...(present === undefined ? {} : { present }),
      ...(dirty === undefined ? {} : { dirty }),
      ...(layered === undefined ? {} : { layered }),
    }
    this.#maps = { size, cell, counts: [], lost: 0, ...maps }
    this.#send('heat', heatText(part))
  }

  #send(event: 'detail' | 'heat', data: string): void {
    for (const stream of this.#streams) stream.send(event, data)
  }
}

function heatText(part: HeatPart): string {
  const heat: Heat = { part, trouble: null }
  return JSON.stringify(heat)
}

/** Waits, until the signal aborts at most. */
export async function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return
  await new Promise<void>(resolve => {
    const done = (): void => {
      clearTimeout(timer)
      signal.removeEventListener('abort', done)
      resolve()
    }
    const timer = setTimeout(done, milliseconds)
    signal.addEventListener('abort', done)
  })
}
