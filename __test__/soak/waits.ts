import { setTimeout as sleep } from 'node:timers/promises'
import { UblkDevice } from '../../dist/index.js'
import { links, list, text } from './trouble.js'

/** Milliseconds: a longer wait needs a reason. The kernel takes this limit for a machine like the lab's. */
const LONG = 30_000
/** Milliseconds between two looks. */
const PAUSE = 2_000

/** One task that cannot be interrupted, for as long as it is seen so. */
interface Wait {
  readonly name: string
  readonly since: number
  last: number
  /** The devices it waits for; none: it may be any. */
  devices: readonly number[]
  /** Since when all of them are served, and it waits nevertheless. */
  servedSince: number | undefined
  /** The longest time that it waited for devices that were served, in milliseconds. */
  longest: number
}

/**
 * Watches who waits without being interruptible. Who uses a disk waits for its next server, which on a slow machine takes
 * long; who waits as long for a disk that is served has been forgotten.
 */
export class Waits {
  readonly #waits = new Map<string, Wait>()
  readonly #long: Wait[] = []
  readonly #stop = new AbortController()
  readonly #watching: Promise<void>

  constructor() {
    this.#watching = this.#watch()
  }

  /** Ends the watching. A line for each long wait, and those of them that have no reason. */
  async end(): Promise<{ long: string[]; unexplained: string[] }> {
    this.#stop.abort()
    await this.#watching
    for (const wait of this.#waits.values()) this.#over(wait)
    const tell = ({ name, since, last, devices, longest }: Wait): string => {
      const whose = devices.length > 0 ? `device ${devices.join(', ')}` : 'all devices'
      return `${name} waited ${seconds(last - since)} s, and ${seconds(longest)} s on end while ${whose} had a server`
    }
    return {
      long: this.#long.map(tell),
      unexplained: this.#long.filter(({ longest }) => longest >= LONG).map(tell),
    }
  }

  async #watch(): Promise<void> {
    const { signal } = this.#stop
    while (!signal.aborted) {
      await this.#look()
      await sleep(PAUSE, undefined, { signal }).catch(() => {})
    }
  }

  async #look(): Promise<void> {
    const devices = await UblkDevice.list().catch(() => [])
    const unserved = new Set(devices.filter(({ serverAlive }) => !serverAlive).map(({ id }) => id))
    const now = performance.now()
    const seen = new Set<string>()
    for (const { key, pid, name } of uninterruptible()) {
      seen.add(key)
      const wait = this.#waits.get(key) ?? {
        name: `${name} (${pid})`,
        since: now,
        last: now,
        devices: usedBy(pid, name),
        servedSince: undefined,
        longest: 0,
      }
      this.#waits.set(key, wait)
      wait.last = now
      const free = wait.devices.length > 0 ? wait.devices.some(id => unserved.has(id)) : unserved.size > 0
      wait.servedSince = free ? undefined : (wait.servedSince ?? now)
      wait.longest = Math.max(wait.longest, now - (wait.servedSince ?? now))
    }
    for (const [key, wait] of this.#waits) {
      if (seen.has(key)) continue
      this.#waits.delete(key)
      this.#over(wait)
    }
  }

  #over(wait: Wait): void {
    if (wait.last - wait.since >= LONG) this.#long.push(wait)
  }
}

function seconds(milliseconds: number): number {
  return Math.round(milliseconds / 1000)
}

/** The tasks that cannot be interrupted now. One that was left and entered again between two looks counts as one. */
function uninterruptible(): { key: string; pid: string; name: string }[] {
  return list('/proc')
    .filter(name => /^\d+$/.test(name))
    .flatMap(pid => {
      const stat = text(`/proc/${pid}/stat`)
      // pid (name) state … starttime; the name may hold anything.
      const end = stat.lastIndexOf(')')
      const fields = stat.slice(end + 2).split(' ')
      const switches = /^voluntary_ctxt_switches:\s*(\d+)/m
      if (fields[0] !== 'D') return []
      const left = switches.exec(text(`/proc/${pid}/status`))?.[1]
      return [{ key: `${pid} ${fields[19]} ${left}`, pid, name: stat.slice(stat.indexOf('(') + 1, end) }]
    })
}

/** The devices that a task has to do with, as far as can be told. */
function usedBy(pid: string, name: string): number[] {
  const mounts = text('/proc/self/mounts')
    .split('\n')
    .map(line => line.split(' '))
  const words = [name, text(`/proc/${pid}/cmdline`).replaceAll('\0', ' '), ...links(`/proc/${pid}`)]
  const ids = words.flatMap(word => {
    const named = [...word.matchAll(/ublkb(\d+)/g)].map(([, id]) => Number(id))
    const mounted = mounts.filter(([, dir]) => dir !== undefined && dir !== '/' && word.includes(dir))
    return [
      ...named,
      ...mounted.flatMap(([device]) => /^\/dev\/ublkb(\d+)/.exec(device ?? '')?.[1] ?? []).map(Number),
    ]
  })
  return [...new Set(ids)]
}
