import { constants } from 'node:os'
// The global timers may be mocked by a test.
import { clearInterval, setImmediate, setInterval } from 'node:timers'
import type * as native from '#binding'
import { type JsDisk, type Report, serveSafely } from './js-disk.js'
import type { QueueMemory } from './queue-memory.js'

/** How many batches are taken in one turn of the event loop before others have theirs. */
const ROUNDS = 4
const TIMED_OUT = -constants.errno.ETIMEDOUT
const ABANDONED = -constants.errno.EIO

/**
 * Serves a queue from a thread's event loop. Up to `depth` requests go on at a time; those that finish in
 * one turn of the loop are answered together.
 */
export class EventLoop {
  readonly #queue: native.Queue
  readonly #memory: QueueMemory
  readonly #disk: JsDisk
  readonly #report: Report
  readonly #turned: () => void
  readonly #ended: () => void
  /** Of each tag, the generation of its request that goes on, else -1. */
  readonly #going: Float64Array
  /** Of each tag, when its request came, in milliseconds. */
  readonly #since: Float64Array
  readonly #timeout: number
  /** Runs while requests go on that may time out. */
  #clock: NodeJS.Timeout | undefined
  #answers = 0
  #scheduled = false
  #over = false

  /**
   * @param timeout - After how many milliseconds a request that goes on is answered with ETIMEDOUT; 0: never.
   * @param turned - Called in each turn that has requests, before they are served.
   * @param ended - Called once, when the queue has ended.
   */
  constructor(
    queue: native.Queue,
    memory: QueueMemory,
    disk: JsDisk,
    report: Report,
    {
      timeout,
      turned = () => {},
      ended = () => {},
    }: { timeout: number; turned?: () => void; ended?: () => void },
  ) {
    this.#queue = queue
    this.#memory = memory
    this.#disk = disk
    this.#report = report
    this.#turned = turned
    this.#ended = ended
    this.#timeout = timeout
    this.#going = new Float64Array(memory.depth).fill(-1)
    this.#since = new Float64Array(memory.depth)
    disk.finish = (tag, generation, result) => this.#finish(tag, generation, result)
  }

  /** Begins to serve; `begun`: the size of the batch that another way of serving has begun already. */
  start(begun = 0): void {
    this.#sort(begun)
    this.#queue.watch(() => this.#drain())
    if (this.#answers > 0) this.#schedule()
  }

  /**
   * Takes batches until there are no more, until some requests go on, or until it is the event loop's turn. What goes
   * on may be finished as soon as this returns: then one call gives its answers and takes the next batch.
   */
  #drain(): void {
    this.#scheduled = false
    try {
      this.#takeBatches()
    } catch {
      this.#end() // The queue has failed; the native part reports that.
    }
  }

  #takeBatches(): void {
    for (let round = 0; round < ROUNDS; round++) {
      if (this.#over) return
      this.#settle()
      const count = this.#queue.poll()
      if (count < 0) this.#end()
      if (count <= 0) return
      this.#turned()
      const going = serveSafely(this.#disk, this.#memory, count, this.#report)
      this.#sort(count)
      if (going > 0) break
    }
    this.#schedule()
  }

  /** Answers what of a batch is finished, and remembers what goes on. */
  #sort(count: number): void {
    const { tag, generation, result } = this.#memory
    const now = this.#timeout > 0 && count > 0 ? performance.now() : 0
    for (let i = 0; i < count; i++) {
      const at = tag[i] as number
      if (this.#disk.goesOn[i] === 0) {
        this.#answer(at, generation[i] as number, result[i] as number)
      } else {
        this.#going[at] = generation[i] as number
        this.#since[at] = now
        if (this.#timeout > 0) this.#clock ??= this.#startClock()
      }
    }
  }

  #startClock(): NodeJS.Timeout {
    return setInterval(() => this.#expire(), Math.max(1, Math.min(this.#timeout / 4, 1000)))
  }

  #stopClock(): void {
    clearInterval(this.#clock)
    this.#clock = undefined
  }

  #finish(tag: number, generation: number, result: number): void {
    if (this.#over || this.#going[tag] !== generation) return // timed out meanwhile
    this.#going[tag] = -1
    this.#answer(tag, generation, result)
    this.#schedule()
  }

  #answer(tag: number, generation: number, result: number): void {
    const at = this.#answers++
    this.#memory.answerTag[at] = tag
    this.#memory.answerGeneration[at] = generation
    this.#memory.answerResult[at] = result
  }

  #settle(): void {
    if (this.#answers === 0) return
    this.#queue.settle(this.#answers)
    this.#answers = 0
  }

  /** Has the answers of this turn of the event loop submitted at its end, unless a batch is taken before that. */
  #schedule(): void {
    if (this.#scheduled) return
    this.#scheduled = true
    setImmediate(() => {
      if (this.#scheduled) this.#drain()
    })
  }

  /** Fails all requests that go on. */
  abandon(): void {
    for (let tag = 0; tag < this.#memory.depth; tag++) this.#giveUp(tag, ABANDONED)
  }

  #expire(): void {
    const before = performance.now() - this.#timeout
    let going = 0
    for (let tag = 0; tag < this.#memory.depth; tag++) {
      if ((this.#going[tag] as number) < 0) continue
      if ((this.#since[tag] as number) > before) {
        going++
        continue
      }
      this.#report(`a request was not finished within ${this.#timeout} ms`)
      this.#giveUp(tag, TIMED_OUT)
    }
    if (going === 0) this.#stopClock()
  }

  /** Answers the tag's request for its backend. */
  #giveUp(tag: number, result: number): void {
    const generation = this.#going[tag] as number
    if (generation < 0) return
    this.#disk.abandon(tag)
    this.#finish(tag, generation, result)
  }

  #end(): void {
    if (this.#over) return
    this.#over = true
    this.#stopClock()
    this.#ended()
  }
}
