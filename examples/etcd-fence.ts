/**
 * The disk of redis-disk.ts, with one queue, which one machine at a time can use: the one that holds a lease in etcd. A process that
 * cannot renew its lease fails all requests before another machine can get the lease, and from then on, since that may have written.
 *
 * A lease does not stop a write that was sent in time and reaches Redis late. So the next holder waits for a second first; a write
 * that takes longer than that on its way is not kept out.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { type DiskBackend, defineBackend } from 'ublk-ts'
import redisDisk, { type Options as RedisOptions } from './redis-disk.js'

export interface Options extends RedisOptions {
  /** Of etcd: `http://host:2379`. */
  etcd: string
  /** For how many seconds others wait for a machine that is lost: at least 3. */
  ttl: number
}

/** How long a request may take to arrive at Redis, in ms. */
const LATE = 1000

export default defineBackend(async ({ etcd, ttl, ...redis }: Options, context): Promise<DiskBackend> => {
  const lease = await Lease.get(etcd, redis.name, ttl)
  await sleep(LATE)
  try {
    const disk = (await redisDisk(redis, context)) as Required<DiskBackend>
    const guarded =
      <Args extends unknown[]>(serve: (...args: Args) => unknown) =>
      async (...args: Args): Promise<void> => {
        lease.check()
        await serve(...args)
        lease.check() // Else what was read may be old, and a write may be gone.
      }
    return {
      size: disk.size,
      read: guarded(disk.read),
      write: guarded(disk.write),
      discard: guarded(disk.discard),
      writeZeroes: guarded(disk.writeZeroes),
      async close() {
        await disk.close()
        await lease.end()
      },
    }
  } catch (error) {
    await lease.end()
    throw error
  }
})

/** A key in etcd that is there for as long as it is renewed. By etcd's own JSON gateway: it needs no client. */
class Lease {
  readonly #timer: NodeJS.Timeout
  /** Until when it is surely this machine's. */
  #until: Moment
  #lost = false

  private constructor(
    readonly etcd: string,
    readonly id: string,
    readonly ttl: number,
    asked: Moment,
  ) {
    this.#until = later(asked, ttl)
    this.#timer = setInterval(() => void this.#renew(), (ttl * 1000) / 6).unref()
  }

  /** Fails if somebody else has it. */
  static async get(etcd: string, name: string, ttl: number): Promise<Lease> {
    const asked = now()
    const { ID: id } = await ask(etcd, 'lease/grant', { TTL: ttl })
    const key = Buffer.from(`ublk-ts/${name}`).toString('base64')
    const { succeeded } = await ask(etcd, 'kv/txn', {
      compare: [{ key, target: 'CREATE', create_revision: '0' }],
      success: [{ requestPut: { key, lease: id, value: Buffer.from(`${process.pid}`).toString('base64') } }],
    })
    if (succeeded) return new Lease(etcd, id, ttl, asked)
    await ask(etcd, 'lease/revoke', { ID: id })
    throw new Error(`the disk ${name} belongs to another machine, until its lease in etcd ends`)
  }

  /** Throws if it may be somebody else's. */
  check(): void {
    const { steady, wall } = now()
    if (steady >= this.#until.steady || wall >= this.#until.wall) this.#lost = true
    if (!this.#lost) return
    clearInterval(this.#timer) // It is for others from now on.
    throw new Error('the lease in etcd is lost: the disk may be used elsewhere')
  }

  async #renew(): Promise<void> {
    const asked = now()
    try {
      const { result } = await ask(this.etcd, 'lease/keepalive', { ID: this.id })
      if (Number(result.TTL ?? 0) > 0) this.#until = later(asked, this.ttl)
      else this.#lost = true
    } catch {} // The next one may succeed; if none does, it ends.
  }

  async end(): Promise<void> {
    clearInterval(this.#timer)
    this.#lost = true
    await ask(this.etcd, 'lease/revoke', { ID: this.id }).catch(() => {}) // Then it ends by itself.
  }
}

/** A moment, in ms, by both clocks: one stands still while the machine sleeps, and one can be set. */
interface Moment {
  steady: number
  wall: number
}

const now = (): Moment => ({ steady: performance.now(), wall: Date.now() })

/** After so many seconds, but for a tenth of them: etcd's clock may be faster. */
function later({ steady, wall }: Moment, seconds: number): Moment {
  return { steady: steady + seconds * 900, wall: wall + seconds * 900 }
}

// biome-ignore lint/suspicious/noExplicitAny: what etcd answers
async function ask(etcd: string, what: string, body: object): Promise<any> {
  const signal = AbortSignal.timeout(1000)
  const answer = await fetch(`${etcd}/v3/${what}`, { method: 'POST', body: JSON.stringify(body), signal })
  if (!answer.ok) throw new Error(`etcd: ${what}: ${(await answer.text()).slice(0, 200)}`)
  return await answer.json()
}
