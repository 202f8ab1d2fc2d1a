import { setTimeout as sleep } from 'node:timers/promises'
import test from 'ava'
import { openHttpImage } from '../../dist/backends/http-image.js'
import { mostAtOnce } from '../../dist/backends/web-fetch.js'
import type { Fetch } from '../../dist/runtime/lazy-fetcher.js'
import { NativeCallbacks } from '../../dist/runtime/native-callbacks.js'
import { ImageServer } from '../support/image-server.js'

const PART = 4096
const MS = { never: 2 ** 30 }

/** Asks as a device does, and takes the answers: `true`, or an error number. */
class Asking {
  readonly answers = new Map<number, true | number>()
  readonly callbacks: NativeCallbacks
  #last = 0
  #answered = (): void => {}

  constructor(fetch: Fetch, timeout: number, atOnce: number | undefined) {
    this.callbacks = new NativeCallbacks({ fetch, timeout, atOnce }, undefined, () => {})
    const take = (id: number, answer: true | number): boolean => {
      const first = !this.answers.has(id)
      if (first) this.answers.set(id, answer)
      this.#answered()
      return first
    }
    this.callbacks.attach({
      supply: (id: number) => take(id, true),
      failFetch: (id: number, errno: number) => take(id, errno),
    } as never)
  }

  /** Asks for the next part. */
  ask(background = false): number {
    const id = this.#last++
    this.callbacks.onFetch?.({ id, offset: id * PART, length: PART, background })
    return id
  }

  /** Resolves when all have an answer. */
  async all(): Promise<(true | number)[]> {
    const awake = setInterval(() => {}, 1000) // The timers of fetches keep no process alive.
    while (this.answers.size < this.#last) await new Promise<void>(resolve => (this.#answered = resolve))
    clearInterval(awake)
    return [...this.answers.values()]
  }
}

/** Takes a while, however short, and notes the parts in the order in which their fetches begin. */
function noting(lasts = 1): { began: number[]; fetch: Fetch } {
  const began: number[] = []
  const fetch: Fetch = async ({ offset, length, signal }) => {
    began.push(offset / PART)
    await sleep(lasts, undefined, { signal })
    return new Uint8Array(length)
  }
  return { began, fetch }
}

test('a slow web server fails no fetch, however many wait for it, and is asked for eight at a time', async t => {
  await using server = await ImageServer.start({ delay: 300 })
  const timeout = 3000
  const { fetch } = await openHttpImage(server.url, { timeout }, new AbortController().signal)
  const asking = new Asking(fetch, timeout, mostAtOnce(fetch))
  const began = performance.now()
  for (let part = 0; part < 96; part++) asking.ask()
  t.deepEqual(new Set(await asking.all()), new Set([true]))
  t.true(performance.now() - began > timeout, 'the last ones waited for longer than a fetch may take')
  t.is((await server.done()).atOnce, 8)
})

test('a source that answers nothing keeps nobody waiting for longer than twice the timeout', async t => {
  const began: number[] = []
  const silent: Fetch = ({ offset }) => {
    began.push(offset / PART)
    return new Promise(() => {}) // It does not look at the signal either.
  }
  const asking = new Asking(silent, 300, 2)
  for (let part = 0; part < 50; part++) asking.ask(part % 2 === 1)
  const answers = await asking.all()
  t.true(answers.every(answer => answer === 110)) // ETIMEDOUT
  // If each waited for its turn, all 50 would have begun.
  t.true(began.length >= 2 && began.length <= 6, `${began}`)
})

test('what requests wait for passes the background, which gets its turn', async t => {
  const { began, fetch } = noting()
  const asking = new Asking(fetch, MS.never, 1)
  for (let part = 0; part < 4; part++) asking.ask(true) // 0 to 3; 0 begins at once
  for (let part = 0; part < 7; part++) asking.ask() // 4 to 10
  await asking.all()
  t.deepEqual(began, [0, 4, 5, 6, 1, 7, 8, 9, 2, 10, 3])
})

test('a disk that is not served any more begins no fetch that waits', async t => {
  const { began, fetch } = noting(MS.never)
  const timeout = 50
  const asking = new Asking(fetch, timeout, 2)
  for (let part = 0; part < 10; part++) asking.ask(part > 5)
  asking.callbacks.end()
  await sleep(timeout) // The timers of those that wait were set before this one, so they would fire before it.
  t.deepEqual(began, [0, 1])
  t.is(asking.answers.size, 0, 'the device answers them itself')
})

test('a function is called for all at once', async t => {
  const { began, fetch } = noting()
  const asking = new Asking(fetch, MS.never, undefined)
  for (let part = 0; part < 20; part++) asking.ask(part > 10)
  t.is(began.length, 20)
  t.is((await asking.all()).length, 20)
})
