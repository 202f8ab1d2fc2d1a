// biome-ignore-all lint/suspicious/noThenProperty: thenables are what it makes
import { UblkError } from 'ublk-ts'
import { quieten } from '../../dist/user-values.js'
import { Chance } from '../soak/chance.js'

/** Random values that code may throw, return, or complete a request with: the same for the same seed. */
export class Odd {
  readonly chance: Chance

  constructor(seed: number) {
    this.chance = new Chance(seed)
  }

  /** Any value. */
  value(depth = 0): unknown {
    const kinds = [() => this.#primitive(), () => this.#error(depth), () => this.#object(depth)]
    return orThrown(this.chance.of(depth > 2 ? kinds.slice(0, 1) : kinds))
  }

  /** A promise, or something like one. It may never settle. */
  promise(depth = 0): unknown {
    const { chance } = this
    const value = this.value(depth + 1)
    const made = chance.of<() => unknown>([
      () => Promise.resolve(value),
      () => Promise.reject(value),
      () => (chance.often(0.05) ? new Promise(() => {}) : Promise.resolve()),
      () => new Promise((_, reject) => setImmediate(reject, value)),
      () => new Promise(resolve => setImmediate(resolve, undefined)),
      () => ({ then: value }),
      () => ({ then: (resolve: (value: unknown) => void) => resolve(value) }),
      () => ({ then: (_: unknown, reject: (value: unknown) => void) => reject(value) }),
      () => ({ then: thrower(value) }),
      () => Object.defineProperty({}, 'then', { get: thrower(value) }),
      () => ({
        then(resolve: (value: unknown) => void, reject: (value: unknown) => void) {
          resolve(undefined)
          reject(value)
          resolve(value)
          throw value
        },
      }),
      () => ({
        then: (resolve: (value: unknown) => void) => setImmediate(resolve, { then: thrower(value) }),
      }),
      () => Object.assign(Promise.reject(value), { then: chance.of([5, undefined, thrower(value)]) }),
      () =>
        Object.defineProperty(Promise.reject(value), 'constructor', {
          get: thrower(value),
          configurable: true,
        }),
      () => new LyingPromise((_, reject) => reject(value)),
      () => Object.freeze(Promise.resolve(value)),
      () => (async () => await value)(),
      () => new Proxy(Promise.resolve(), {}),
    ])
    const promise = orThrown(made)
    // A rejected promise inside another value cannot be handled by the code under test.
    if (depth > 0) quieten(promise)
    return promise
  }

  #primitive(): unknown {
    const { chance } = this
    return chance.of<() => unknown>([
      () => chance.of([undefined, null, true, false, '', 'text', ' \n ', '5', 'ENOSPC']),
      () => chance.of([0, -0, 1, -1, -5, 512, 4096, 1.5, 2 ** 31, -(2 ** 31), 2 ** 53, 1e300]),
      () => chance.of([Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, -4095, -4096]),
      () => chance.of([0n, 5n, -5n, 2n ** 70n]),
      () => chance.of([Symbol('odd'), Symbol.iterator, Symbol.for('odd'), Symbol()]),
      () => chance.below(2 ** 32) - 2 ** 31,
      () => 'x'.repeat(chance.below(100_000)),
      () => String.fromCharCode(chance.below(0x10000), 0xd800, 0x1b, 0),
    ])()
  }

  #error(depth: number): unknown {
    const { chance } = this
    const value = (): unknown => this.value(depth + 1)
    return chance.of<() => unknown>([
      () => new Error('plain'),
      () =>
        Object.assign(new Error('coded'), { code: chance.of(['ENOSPC', 'EAGAIN', 'ETIMEDOUT', 'EROFS']) }),
      () =>
        Object.assign(new Error('coded'), { code: chance.of(['toString', '__proto__', 'constructor', 'E']) }),
      () =>
        Object.assign(new Error('numbered'), { errno: chance.of([-28, 28, 0, 4095, 4096, 1e9, Number.NaN]) }),
      () => Object.assign(new Error('odd'), { code: value(), errno: value() }),
      () => Object.assign(new Error('odd'), { message: value() }),
      () => Object.defineProperty(new Error('odd'), 'message', { get: thrower(value()) }),
      () => Object.defineProperty(new Error('odd'), 'code', { get: thrower(value()) }),
      () => Object.setPrototypeOf(new Error('no prototype'), null) as unknown,
      () => Object.freeze(new TypeError('frozen')),
      () => new Error('caused', { cause: value() }),
      () => new AggregateError([value()], 'many'),
      () => new UblkError('busy', 'of the package', { errno: 16, code: 'EBUSY' }),
      () => Object.assign(Object.create(UblkError.prototype) as object, { message: value(), kind: value() }),
      () => new Proxy(new Error('behind a proxy'), chance.of([{}, throwing(value())])),
    ])()
  }

  #object(depth: number): unknown {
    const { chance } = this
    const value = (): unknown => this.value(depth + 1)
    return chance.of<() => unknown>([
      () => ({}),
      () => Object.create(null) as unknown,
      () => Object.freeze({ message: value() }),
      () => [value(), value()],
      () => cyclic(),
      () => ({ toString: thrower(value()) }),
      () => ({ toString: () => value() }),
      () => ({ [Symbol.toPrimitive]: thrower(value()) }),
      () => ({ [Symbol.toPrimitive]: value(), valueOf: value(), toString: value() }),
      () => ({ code: value(), errno: value(), message: value() }),
      () => ({
        get code() {
          throw value()
        },
        get errno() {
          throw value()
        },
      }),
      () => new Proxy({}, throwing(value())),
      () => new Proxy(() => {}, throwing(value())),
      () => revoked({}),
      () => revoked(() => {}),
      () => revoked([]),
      () => new Date(Number.NaN),
      () => new Map([[value(), value()]]),
      () => new Uint8Array(chance.below(16)),
      () => transferred(),
      () => chance.of<unknown>([() => {}, class {}, async () => {}, /x/, new WeakMap(), globalThis]),
      () =>
        (function* () {
          yield value()
        })(),
      () => this.promise(depth + 1),
    ])()
  }
}

/** A promise with a wrong `then`. */
class LyingPromise<T> extends Promise<T> {
  override then(): never {
    throw new RangeError('not then')
  }
}

/** A description of a value, which may be hard to handle for a test, too. */
function orThrown(make: () => unknown): unknown {
  try {
    return make()
  } catch (error) {
    return error
  }
}

function thrower(value: unknown): () => never {
  return () => {
    throw value
  }
}

/** Every access to it throws. */
function throwing(value: unknown): ProxyHandler<object> {
  const trap = thrower(value)
  return {
    get: trap,
    has: trap,
    getPrototypeOf: trap,
    ownKeys: trap,
    getOwnPropertyDescriptor: trap,
    apply: trap,
  }
}

function revoked(target: object): unknown {
  const { proxy, revoke } = Proxy.revocable(target, {})
  revoke()
  return proxy
}

function cyclic(): unknown {
  const one: { self?: unknown; list: unknown[] } = { list: [] }
  one.self = one
  one.list.push(one, one.list)
  return one.list
}

function transferred(): Uint8Array {
  const bytes = new Uint8Array(8)
  structuredClone(bytes, { transfer: [bytes.buffer] })
  return bytes
}

/** The number of values that a test tries: `usual`, or a share of `UBLK_TS_ODD`. */
export function share(usual: number, of: number): number {
  const all = Number(process.env['UBLK_TS_ODD'] ?? 0)
  return all > 0 ? Math.ceil(all * of) : usual
}

/** The seed of this run, which failures print. */
export const SEED: number = Number(process.env['UBLK_TS_SEED'] ?? 1)
