import { readFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'
import { UblkError, type UblkErrorKind } from 'ublk-ts'
import type { About, Action, StackPart } from '../../dist/dashboard/protocol.js'
import type { Source } from '../../dist/dashboard/source.js'
import type { HeatPart } from '../../dist/info.js'
import { latencyOf } from '../../dist/latency.js'
import type { Reading } from '../../dist/watch/readings.js'
import { queueOf, readingOf } from './readings.js'

/** Disks that are made up: their numbers change as they are read, and depend on nothing else. */
export class MadeUp implements Source {
  /** What was asked for. */
  readonly acts: string[] = []
  /** How often it was read. */
  reads = 0
  /** Who looks at maps now. */
  looking = 0
  /** What is wrong with all disks. */
  failure: Error | undefined
  /** Awaited before it is read, and before it says of what a disk is made. */
  readable: Promise<unknown> = Promise.resolve()
  statable: Promise<unknown> = Promise.resolve()
  /** What tells its disks from later ones of the same number, and their source. */
  generation = 1
  disks: number

  constructor(disks: number) {
    this.disks = disks
  }

  async read(): Promise<readonly Reading[]> {
    await this.readable
    if (this.failure) throw this.failure
    this.reads++
    return Array.from({ length: this.disks }, (_, id) => this.#reading(id))
  }

  #reading(id: number): Reading {
    const at = this.reads * 1000
    if (id % 97 === 13) {
      const trouble = new UblkError('not-found', `nobody can be asked about device ${id}`)
      return readingOf(id, at, [], { trouble })
    }
    // Each third disk is busy, each with a period of its own.
    const done = id % 3 === 0 ? Math.round(this.reads * 500 + 400 * Math.sin(this.reads / (5 + (id % 7)))) : 0
    const op = (part: number) => {
      const ops = Math.round(done * part)
      const buckets: [number, number][] =
        ops > 0
          ? [
              [20 + (id % 50), ops - Math.ceil(ops / 50)],
              [900, Math.ceil(ops / 50)],
            ]
          : []
      return {
        ops,
        bytes: ops * 4096,
        errors: 0,
        latency: latencyOf(buckets, ops > 0 ? 30 : 0, ops > 0 ? 900 : 0),
      }
    }
    return readingOf(id, at, [
      queueOf(0, { read: op(0.7), write: op(0.3), turns: done + 1, inFlight: id % 4 }),
    ])
  }

  describe(id: number): Pick<About, 'backend' | 'source'> {
    const later = this.generation > 1 ? `-${this.generation}` : ''
    return { backend: 'file', source: `/srv/images/disk-${id}${later}.img` }
  }

  identity(): string {
    return `${this.generation}`
  }

  async stack(id: number): Promise<readonly StackPart[]> {
    await this.statable
    const path = `/srv/images/disk-${id}.img`
    return [{ level: 0, kind: 'file', label: path, files: [{ path, size: 2 ** 24, bytes: 2 ** 20 }] }]
  }

  async heat(id: number, listener: (part: HeatPart) => void, signal: AbortSignal): Promise<void> {
    this.looking++
    const [size, cell] = [2 ** 24, 4096]
    const timer = setInterval(() => {
      const start = ((this.reads * 40 + id) % 100) * 40
      const counts = Array.from({ length: 60 }, (_, at) => [
        start + at,
        4096 * (at % 3),
        at % 2 ? 4096 : 0,
        0,
      ]).flat()
      listener({ size, cell, counts, lost: 0, present: null, dirty: null, layered: null })
    }, 100)
    await new Promise<void>(resolve => signal.addEventListener('abort', () => resolve()))
    clearInterval(timer)
    this.looking--
  }

  async act(id: number, action: Action): Promise<void> {
    this.acts.push(`${action} ${id}`)
  }

  [Symbol.dispose](): void {}
}

/** What a source said in a second. */
interface Frame {
  readonly readings: readonly Reading[]
  /** By disk. */
  readonly heat: Record<number, HeatPart>
}

/** What a source said while it was recorded. */
export interface Recording {
  readonly frames: Frame[]
  /** By disk. */
  readonly about: Record<number, Pick<About, 'backend' | 'source'>>
  readonly stacks: Record<number, readonly StackPart[]>
}

/** Passes on what another source says, and keeps it. */
export class Recorder implements Source {
  readonly recording: Recording = { frames: [], about: {}, stacks: {} }
  readonly #source: Source

  constructor(source: Source) {
    this.#source = source
  }

  async read(): Promise<readonly Reading[]> {
    const readings = await this.#source.read()
    this.recording.frames.push({ readings: readings.map(plain), heat: {} })
    return readings
  }

  identity(id: number): string | undefined {
    return this.#source.identity(id)
  }

  describe(id: number): Pick<About, 'backend' | 'source'> {
    const about = this.#source.describe(id)
    this.recording.about[id] = about
    return about
  }

  async stack(id: number): Promise<readonly StackPart[]> {
    const stack = await this.#source.stack(id)
    this.recording.stacks[id] = stack
    return stack
  }

  async heat(id: number, listener: (part: HeatPart) => void, signal: AbortSignal): Promise<void> {
    const take = (part: HeatPart): void => {
      const frame = this.recording.frames.at(-1)
      if (frame) frame.heat[id] = part
      listener(part)
    }
    await this.#source.heat(id, take, signal)
  }

  async act(id: number, action: Action): Promise<void> {
    await this.#source.act(id, action)
  }

  [Symbol.dispose](): void {
    this.#source[Symbol.dispose]()
  }
}

/**
 * Says once more what was recorded: the first frame until it plays, then one frame each time that it is read, and nothing after the
 * last.
 */
export class Replay implements Source {
  readonly recording: Recording
  #frame = 0
  /** Called when it has come to its end, if it plays. */
  #ended: (() => void) | undefined
  #leave: (() => void) | undefined
  #left = false

  constructor(recording: Recording) {
    this.recording = recording
  }

  /** What was recorded in a file, as long as disks were used. */
  static of(path: string): Replay {
    const recording = JSON.parse(gunzipSync(readFileSync(path)).toString()) as Recording
    const used = ({ heat }: Frame): boolean => Object.values(heat).some(({ counts }) => counts.length > 0)
    const frames = recording.frames
      .slice(0, recording.frames.findLastIndex(used) + 1)
      .map(({ readings, heat }) => ({ readings: readings.map(alive), heat }))
    return new Replay({ ...recording, frames })
  }

  /**
   * Plays it to its end, which pages go on showing until what this returns is disposed of. Where disks were read and written is
   * seen by pages that look at them before.
   */
  async play(): Promise<Disposable> {
    await new Promise<void>(resolve => {
      this.#ended = resolve
    })
    return {
      [Symbol.dispose]: () => {
        this.#left = true
        this.#leave?.()
      },
    }
  }

  /** When it is, in the time of the recording. */
  now(): number {
    const [first] = this.recording.frames
    const start = first?.readings[0]?.at ?? 0
    return Date.UTC(2026, 0, 1, 12) + (this.#now()?.readings[0]?.at ?? start) - start
  }

  #now(): Frame | undefined {
    return this.recording.frames[this.#frame]
  }

  async read(): Promise<readonly Reading[]> {
    if (!this.#ended) return this.#now()?.readings ?? []
    if (this.#frame < this.recording.frames.length - 1)
      return this.recording.frames[++this.#frame]?.readings ?? []
    if (this.#left) return []
    await new Promise<void>(resolve => {
      this.#leave = resolve
      this.#ended?.()
    })
    return []
  }

  identity(): undefined {}

  describe(id: number): Pick<About, 'backend' | 'source'> {
    return this.recording.about[id] ?? { backend: '', source: '' }
  }

  async stack(id: number): Promise<readonly StackPart[]> {
    return this.recording.stacks[id] ?? []
  }

  async heat(id: number, listener: (part: HeatPart) => void, signal: AbortSignal): Promise<void> {
    // Who begins to look late gets the maps as they are.
    const before = this.recording.frames.slice(0, this.#frame + 1).flatMap(({ heat }) => heat[id] ?? [])
    for (const part of before) listener(part)
    let told = this.#frame
    const timer = setInterval(() => {
      while (told < this.#frame) {
        const part = this.recording.frames[++told]?.heat[id]
        if (part) listener(part)
      }
    }, 10)
    await new Promise<void>(resolve => signal.addEventListener('abort', () => resolve()))
    clearInterval(timer)
  }

  async act(): Promise<void> {}

  [Symbol.dispose](): void {}
}

/** JSON leaves out an error's message. */
function plain(reading: Reading): Reading {
  const { trouble } = reading
  return { ...reading, trouble: trouble && ({ kind: trouble.kind, message: trouble.message } as UblkError) }
}

/** JSON has made objects of errors. */
function alive(reading: Reading): Reading {
  const { trouble } = reading as { trouble: { kind: UblkErrorKind; message: string } | null }
  return { ...reading, trouble: trouble && new UblkError(trouble.kind, trouble.message) }
}
