import { type IncomingMessage, request } from 'node:http'

/** Reads the events of a dashboard. */
export class Events {
  readonly #all: [name: string, data: string][] = []
  #got = (): void => {}
  #response: IncomingMessage | undefined
  ended = false

  constructor(port: number, path: string, headers: Record<string, string>) {
    let text = ''
    const sent = request({ port, path, headers }, response => {
      this.#response = response
      response.setEncoding('utf8').on('data', more => {
        const parts = (text + more).split('\n\n')
        text = parts.pop() ?? ''
        for (const part of parts) {
          const [, name, data] = /^event: (.*)\ndata: (.*)$/.exec(part) ?? []
          if (name !== undefined && data !== undefined) this.#all.push([name, data])
        }
        this.#got()
      })
      response.on('close', () => this.#end()).on('error', () => {})
    })
    sent.on('error', () => this.#end()).end()
  }

  #end(): void {
    this.ended = true
    this.#got()
  }

  close(): void {
    this.#response?.destroy()
  }

  pause(): void {
    this.#response?.pause()
  }

  resume(): void {
    this.#response?.resume()
  }

  /** The next event of that name; others before it are dropped. */
  async next<Data>(name: string): Promise<Data> {
    for (;;) {
      for (let event = this.#all.shift(); event; event = this.#all.shift()) {
        if (event[0] === name) return JSON.parse(event[1])
      }
      if (this.ended) throw new Error(`no ${name}`)
      await new Promise<void>(resolve => {
        this.#got = resolve
      })
    }
  }
}
