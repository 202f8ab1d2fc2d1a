import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { createConnection } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Assertions, TestFn } from 'ava'
import { leaveNothingBehind } from './devices.js'
import { run } from './program.js'
import { until } from './server.js'

/** Where servers leave what others find them by, for root. */
export const RUN_DIR = '/run/ublk-ts'

/** A disk that `ublk-ts create --detach` made. */
export class Detached {
  constructor(
    /** The disk, such as `/dev/ublkb0`. */
    readonly path: string,
  ) {}

  /** Runs `ublk-ts create --detach` with these words, which must succeed. */
  static async create(words: string): Promise<Detached> {
    const { status, stdout, stderr } = await run('create', '--detach', ...words.split(' '))
    if (status !== 0 || stderr !== '')
      throw new Error(`create --detach ${words}: status ${status}: ${stderr}`)
    return new Detached(stdout.trimEnd())
  }

  /** The number of the device. */
  get id(): number {
    return Number(/\d+$/.exec(this.path)?.[0])
  }

  get recordPath(): string {
    return `${RUN_DIR}/${this.id}.json`
  }

  // biome-ignore lint/suspicious/noExplicitAny: as JSON.parse
  get record(): any {
    return JSON.parse(readFileSync(this.recordPath, 'utf8'))
  }

  /** The server's process. */
  get pid(): number {
    return this.record.server.pid
  }

  /** What its server logged. */
  // biome-ignore lint/suspicious/noExplicitAny: as JSON.parse
  get log(): any[] {
    const lines = readFileSync(`${RUN_DIR}/${this.id}.log`, 'utf8').trim().split('\n')
    return lines.map(line => JSON.parse(line))
  }

  /** Sends its server a signal, and waits until that has ended if it is to. */
  async signal(name: NodeJS.Signals, { ends = true } = {}): Promise<void> {
    const { pid } = this
    process.kill(pid, name)
    if (ends) await gone(pid)
  }

  /** Two servers are killed and the next one is upgraded, while a load goes on. No command says anything else than it should. */
  async changeServers(t: Assertions): Promise<void> {
    for (const pause of [300, 600]) {
      await sleep(pause)
      await this.signal('SIGKILL')
      const recovered = { status: 0, signal: null, stdout: `${this.path}\n`, stderr: '' }
      t.deepEqual(await run('recover', this.path), recovered)
    }
    const { pid } = this
    const { status, stderr } = await run('upgrade', this.path, '--json')
    t.is(status, 0, stderr)
    await gone(pid)
    await sleep(300)
  }
}

/** Waits until a process has ended. */
export async function gone(pid: number): Promise<void> {
  await until(
    () => !existsSync(`/proc/${pid}`) || /^State:\s+Z/m.test(read(`/proc/${pid}/status`)),
    `${pid} ends`,
  )
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

/** What servers left behind: processes, files in the run directory but for logs, and memory. */
export function leftovers(): string[] {
  const list = (dir: string): string[] => (existsSync(dir) ? readdirSync(dir) : [])
  const files = list(RUN_DIR).filter(name => !/^\d+\.log(\.1)?$/.test(name))
  const memory = list('/dev/shm').filter(name => name.startsWith('ublk-ts-'))
  const servers = list('/proc').filter(
    pid => /^\d+$/.test(pid) && /ublk-ts\.cjs\0serve|^ublk-ts: /.test(read(`/proc/${pid}/cmdline`)),
  )
  return [...files, ...memory, ...servers.map(pid => `process ${pid}`)]
}

/** Makes every test of a file fail that leaves a device behind, or anything of its server. */
export function leaveNoServerBehind(test: TestFn): void {
  leaveNothingBehind(test)
  test.afterEach.always('nothing of a server is left behind', async t => {
    await until(() => leftovers().length === 0, 'all servers end').catch(() => {
      for (const log of readdirSync(RUN_DIR).filter(name => name.endsWith('.log')))
        t.log(log, read(`${RUN_DIR}/${log}`))
    })
    t.deepEqual(leftovers(), [])
  })
}

/** What a server's socket answers first to this. */
export async function ask(id: number, text: string): Promise<string> {
  return await new Promise((resolve, reject) => {
    let answer = ''
    const socket = createConnection(`${RUN_DIR}/${id}.sock`)
    socket.setEncoding('utf8').on('data', chunk => {
      answer += chunk
      if (answer.endsWith('\n')) socket.end()
    })
    socket.on('error', reject).on('close', () => resolve(answer))
    socket.write(text)
  })
}
