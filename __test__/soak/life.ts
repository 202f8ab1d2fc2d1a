import { existsSync, mkdirSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { type DeviceInfo, UblkDevice } from 'ublk-ts'
import { RUN_DIR } from '../support/detached.js'
import type { Result } from '../support/program.js'
import type { Chance } from './chance.js'
import { Client, type Use } from './client.js'
import { type Interruption, MARK, ublk } from './command.js'
import { Broken, list, marked, type Process, stacks, text } from './trouble.js'
import type { World } from './world.js'

export type Recovery = 'none' | 'requeue' | 'reissue' | 'fail'
export type Storage = 'mem' | 'file' | 'null' | 'worker'

/** What a device is made with. */
export interface Looks {
  readonly id: number | undefined
  readonly storage: Storage
  readonly recovery: Recovery
  readonly queues: number
  readonly threads: 'own' | 'shared'
  readonly autoRestart: boolean
}

/**
 * Where a device is in its life: served; waiting for a server, with its disk; left over, without one; gone. `unsure`
 * until that was looked at.
 */
export type Stage = 'served' | 'waiting' | 'dead' | 'gone' | 'unsure'

const MODULE = new URL('../backends/in-file.js', import.meta.url).href

/** One device, from before it is made until nothing of it is left, and what is known about it. */
export class Life {
  id: number
  stage: Stage = 'gone'
  size = 0
  /** It was told to end, and does as soon as nobody uses it. */
  ending = false
  /** What may have failed requests of the present client. */
  disturbances: string[] = []
  client: Client | undefined
  readonly history: string[] = []
  readonly dir: string
  readonly #name: string
  /** Who was sent a SIGKILL. */
  readonly #killed = new Set<number>()
  /** Tells it from later ones of its number. */
  #identity: number | undefined
  readonly #began = performance.now()

  constructor(
    name: string,
    readonly looks: Looks,
    readonly world: World,
    readonly chance: Chance,
  ) {
    this.#name = name
    this.id = looks.id ?? -1
    this.dir = `${world.dir}/${name}`
    this.note(JSON.stringify(looks))
  }

  /** Prepares its directory, with a disk of this size in bytes. */
  prepare(size: number): void {
    this.size = size
    mkdirSync(`${this.dir}/mnt`, { recursive: true })
    for (const file of ['expected', 'disk']) {
      writeFileSync(`${this.dir}/${file}`, '')
      truncateSync(`${this.dir}/${file}`, size)
    }
    writeFileSync(`${this.dir}/torn`, '')
  }

  /** The words that make it. */
  get words(): string[] {
    const { id, storage, recovery, queues, threads, autoRestart } = this.looks
    const path = `${this.dir}/disk`
    const what = {
      mem: ['--mem', `${this.size}`],
      null: ['--null', `${this.size}`],
      file: ['--file', path],
      worker: ['--worker', MODULE, '--worker-options', JSON.stringify({ path, size: this.size })],
    }
    return [
      ...['create', '--detach', ...what[storage], '--queues', `${queues}`, '--threads', threads],
      ...(id === undefined ? [] : ['--id', `${id}`]),
      ...(recovery === 'none' ? [] : ['--recovery', recovery]),
      ...(autoRestart ? ['--auto-restart'] : []),
    ]
  }

  get path(): string {
    return `/dev/ublkb${this.id}`
  }

  note(line: string): void {
    const at = ((performance.now() - this.#began) / 1000).toFixed(2)
    this.history.push(`${at} ${line}`)
  }

  /** Runs a command about it. */
  async run(words: string[], interruption?: Interruption): Promise<Result> {
    const how = interruption ? ` (${interruption.name} after ${interruption.after} ms)` : ''
    this.note(`${words.join(' ')}${how}`)
    const { mark, world } = this
    // These start servers, which takes its time on a slow machine.
    const patience = ['create', 'recover', 'upgrade'].includes(words[0] ?? '')
      ? ['--timeout', `${Math.floor(world.bound / 1000) - 30}`]
      : []
    const ended = await ublk([...words, ...patience], { mark, bound: world.bound, interruption })
    this.note(
      `  ${words[0]}: ${ended.signal ?? ended.status} ${(ended.stderr || ended.stdout.slice(0, 60)).trim()}`,
    )
    return ended
  }

  /** Runs one that has no reason to fail. */
  async must(words: string[]): Promise<Result> {
    const ended = await this.run(words)
    if (ended.status !== 0) throw new Broken(`${words.join(' ')}: should not fail: ${ended.stderr}`)
    return ended
  }

  /** Runs one that cannot succeed. */
  async mustNot(words: string[], why: RegExp): Promise<void> {
    const { status, stderr } = await this.run(words)
    if (status !== 1 || !why.test(stderr))
      throw new Broken(`${words.join(' ')}: not ${why}: ${status} ${stderr}`)
  }

  expect(holds: boolean, what: string): void {
    if (!holds) throw new Broken(`not as it should be: ${what}`)
  }

  get mark(): string {
    return this.#name
  }

  /** Its servers and who supervises them, ended commands not counted. */
  servers(): Process[] {
    return marked(`${MARK}=${this.mark}`).filter(({ line }) => /^ublk-ts: |main\.js serve/.test(line))
  }

  /** The process of its record. */
  get server(): number | undefined {
    try {
      return JSON.parse(text(`${RUN_DIR}/${this.id}.json`)).server.pid
    } catch {
      return undefined
    }
  }

  /** The process that replaces its server. */
  get supervisor(): number | undefined {
    const server = this.servers().find(({ pid }) => pid === this.server)
    return this.servers().find(({ pid }) => pid === server?.parent)?.pid
  }

  signal(pid: number | undefined, name: NodeJS.Signals): void {
    if (pid === undefined) return
    this.note(`${name} to ${pid}`)
    if (name === 'SIGKILL') this.#killed.add(pid)
    try {
      process.kill(pid, name)
    } catch {} // It has just ended.
  }

  /** Begins to use the disk. */
  use(use: Use, rounds = 20): void {
    this.disturbances = []
    this.note(`client ${use}`)
    this.client = new Client(use, this.path, this.dir, rounds, this.chance.below(2 ** 15))
  }

  /** Waits until nobody uses the disk. What failed for its user has to be excused. */
  async leave(): Promise<void> {
    const { client, looks } = this
    if (!client) return
    this.client = undefined
    await client.end(this.world.bound)
    this.note(`  client ${client.use}: ${client.errors.length} errors ${client.errors[0] ?? ''}`)
    const excuses = this.disturbances.filter(what => what !== 'killed' || looks.recovery !== 'reissue')
    if (client.errors.length > 0 && excuses.length === 0) {
      throw new Broken(
        `client ${client.use}: ${client.errors.length} requests failed without a reason: ${client.errors[0]}`,
      )
    }
  }

  /** Uses the disk while nothing else happens to it. */
  async check(use: Use, rounds?: number): Promise<void> {
    this.use(use, rounds)
    await this.leave()
  }

  /** Looks until it is clear where the device is in its life. */
  async settle(): Promise<void> {
    const end = performance.now() + this.world.bound
    let seen = ''
    for (;;) {
      const info = await this.info()
      const servers = this.servers()
      const stage = this.#stage(info, servers)
      if (stage) {
        if (stage !== this.stage) this.note(`is ${stage}`)
        this.stage = stage
        if (info && stage === 'served') this.sized(info.size)
        if (stage === 'gone') this.ending = false
        return
      }
      seen = `${info?.state}, pid ${info?.pid}; ${servers.map(({ pid, state, line }) => `${pid} ${state} ${line}`).join('; ')}`
      if (performance.now() > end) throw new Broken(`does not come to rest: ${seen}`, stacks())
      await sleep(this.world.pause)
    }
  }

  #stage(info: DeviceInfo | undefined, servers: readonly Process[]): Stage | undefined {
    const here = servers.length > 0
    if (!info) return here ? undefined : 'gone'
    if (this.ending && !this.client) return undefined
    // One that starts, is about to be replaced, or was killed and takes its time, is about to change something.
    if (servers.some(({ line, pid }) => line.includes('ublk-ts.cjs serve') || this.#killed.has(pid)))
      return undefined
    if (info.state === 'live') {
      const known = servers.some(({ pid }) => pid === info.pid) && this.server === info.pid
      return info.serverAlive && known ? 'served' : undefined
    }
    if (here) return undefined
    return info.state === 'stopped' ? 'dead' : 'waiting'
  }

  /** What the driver says of it; undefined if it is gone. */
  async info(): Promise<DeviceInfo | undefined> {
    // A number that the driver gave it is known from its record, if whoever made it could not tell.
    if (this.id < 0) this.id = recordOf(this.servers()) ?? -1
    const identity = identityOf(this.id)
    this.#identity ??= identity
    if (identity === undefined || this.#identity !== identity) return undefined
    return (await UblkDevice.list()).find(({ id }) => id === this.id)
  }

  /** It has this size in bytes now; bytes that were added are zeroes. */
  sized(size: number): void {
    if (size === this.size) return
    this.note(`has ${size} bytes`)
    this.size = size
    truncateSync(`${this.dir}/expected`, size)
  }

  /** What lies in the disk from there on is not known. */
  tear(from: number): void {
    const chunks = Array.from({ length: 512 }, (_, at) => at).filter(at => at * 2 ** 16 >= from)
    writeFileSync(`${this.dir}/torn`, chunks.map(at => `${at}\n`).join(''), { flag: 'a' })
  }

  /** Looks that nothing of it is left. */
  async end(): Promise<void> {
    const end = performance.now() + this.world.bound
    for (;;) {
      const left = this.#left()
      if (left.length === 0) break
      if (performance.now() > end) throw new Broken(`is gone, and has left ${left.join(', ')}`, stacks())
      await sleep(this.world.pause)
    }
    rmSync(this.dir, { recursive: true })
    rmSync(`${RUN_DIR}/${this.id}.log`, { force: true })
  }

  #left(): string[] {
    const { id, looks } = this
    // Another device may have its number by now.
    const own = looks.id !== undefined
    const files = own ? list(RUN_DIR).filter(name => name.startsWith(`${id}.`) && name !== `${id}.log`) : []
    const nodes = own ? [`/dev/ublkb${id}`, `/dev/ublkc${id}`].filter(path => existsSync(path)) : []
    return [...files, ...nodes, ...this.servers().map(({ pid, line }) => `${pid} ${line}`)]
  }
}

function identityOf(id: number): number | undefined {
  return statSync(`/sys/class/ublk-char/ublkc${id}/`, { throwIfNoEntry: false })?.ino
}

/** The number of the device of which the record says that one of these serves it. */
function recordOf(servers: readonly Process[]): number | undefined {
  const ids = list(RUN_DIR).flatMap(name => /^(\d+)\.json$/.exec(name)?.[1] ?? [])
  const served = (id: string): boolean => {
    const pid = Number(/"pid": (\d+)/.exec(text(`${RUN_DIR}/${id}.json`))?.[1])
    return servers.some(server => server.pid === pid)
  }
  const found = ids.find(served)
  return found === undefined ? undefined : Number(found)
}
