import { setTimeout as sleep } from 'node:timers/promises'
import test from 'ava'
import { propertiesOf, toDisk } from '../../dist/runtime/backend-properties.js'
import { type JsDisk, serveSafely } from '../../dist/runtime/js-disk.js'
import { QueueMemory } from '../../dist/runtime/queue-memory.js'
import { FORMS, GOOD, oddDisk, SIZE } from '../backends/odd.js'
import { Chance } from '../soak/chance.js'
import { SEED, share } from '../support/odd.js'

const DEPTH = 32
const BUFFER = 4096

/** A queue's memory, without a queue. */
function memoryOf(): QueueMemory {
  let size = 0
  const array = (width: number): number => {
    const at = size
    size += width * DEPTH
    return at
  }
  const names = [
    'offset',
    'length',
    'result',
    'generation',
    'answerResult',
    'answerGeneration',
    'memory',
    'memoryOffset',
    'tag',
    'answerTag',
    'op',
    'flags',
  ]
  const widths = [8, 8, 4, 4, 4, 4, 4, 4, 2, 2, 1, 1]
  const layout = Object.fromEntries(names.map((name, i) => [name, array(widths[i] ?? 1)]))
  const queue = {
    layout: { ...layout, depth: DEPTH, size, bufferSize: BUFFER, bufferStride: BUFFER },
    shared: () => new ArrayBuffer(size),
    data: () => new ArrayBuffer(DEPTH * BUFFER),
  }
  return new QueueMemory(queue as never)
}

/** Simulates the kernel: each request has to be answered once, or may be abandoned while it is still running. */
class Kernel {
  readonly #memory = memoryOf()
  readonly #chance = new Chance(SEED)
  readonly #free = Array.from({ length: DEPTH }, (_, tag) => tag)
  readonly #going = new Map<number, number>()
  readonly #disk: JsDisk
  #generation = 0
  answered = 0
  readonly mistakes: string[] = []

  constructor(form: (typeof FORMS)[number], { apart }: { apart: boolean }) {
    const backend = oddDisk({ form, seed: SEED })
    const service = {
      properties: propertiesOf(backend),
      timeout: apart ? 1 : 0,
      durable: this.#chance.often(0.5),
    }
    this.#disk = toDisk(backend, this.#memory, message => this.#report(message), service)
    this.#disk.finish = (tag, generation, result) => {
      if (this.#going.get(tag) === generation) this.#answer(tag, result)
    }
  }

  get going(): number {
    return this.#going.size
  }

  #report(message: unknown): void {
    if (typeof message !== 'string' || /mistake of ublk-ts/.test(message)) this.mistakes.push(String(message))
  }

  #answer(tag: number, result: unknown): void {
    if (typeof result !== 'number' || !Number.isInteger(result))
      this.mistakes.push(`result ${String(result)}`)
    this.#going.delete(tag)
    this.#free.push(tag)
    this.answered++
  }

  batch(): void {
    const { op, flags, offset, length, result, generation, tag } = this.#memory
    const count = Math.min(this.#chance.below(8, 1), this.#free.length)
    for (let i = 0; i < count; i++) {
      const kind = this.#chance.below(5)
      op[i] = kind
      flags[i] = this.#chance.below(4)
      offset[i] = kind === 2 ? 0 : this.#chance.below(SIZE / BUFFER) * BUFFER
      length[i] = kind === 2 ? 0 : BUFFER
      result[i] = kind <= 1 ? BUFFER : 0
      generation[i] = ++this.#generation
      tag[i] = this.#free.pop() ?? 0
    }
    const tags = Array.from(tag.subarray(0, count))
    const generations = Array.from(generation.subarray(0, count))
    const wasGood = Array.from({ length: count }, (_, i) => op[i] === 1 && (offset[i] ?? 0) >= GOOD)
    serveSafely(this.#disk, this.#memory, count, message => this.#report(message))
    tags.forEach((at, i) => {
      if (this.#disk.goesOn[i] !== 0) this.#going.set(at, generations[i] ?? 0)
      else this.#answer(at, result[i])
      if (wasGood[i] && count === 1 && this.#disk.goesOn[i] === 0 && result[i] !== BUFFER) {
        this.mistakes.push(`a good write alone got ${result[i]}`)
      }
    })
  }

  giveUp(): void {
    for (const [tag] of [...this.#going]) {
      this.#disk.abandon(tag)
      this.#answer(tag, -5)
    }
  }
}

for (const form of FORMS) {
  for (const apart of [false, true]) {
    test(`every request is answered once, whatever a disk does: ${form}${apart ? ', with buffers of its own' : ''}, seed ${SEED}`, async t => {
      const kernel = new Kernel(form, { apart })
      const wanted = share(4000, 0.1)
      for (let turn = 0; kernel.answered < wanted; turn++) {
        kernel.batch()
        if (turn % 4 === 0) await new Promise(resolve => setImmediate(resolve))
        if (kernel.going > DEPTH / 2) {
          await sleep(1)
          kernel.giveUp()
        }
      }
      await sleep(10)
      kernel.giveUp()
      t.deepEqual(kernel.mistakes.slice(0, 5), [])
    })
  }
}
