/** The memory limit of a control group. Without control groups for memory there is none. */
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { formatSize } from '../size.js'

/** The memory of this process's control group. */
export class MemoryLimit {
  readonly #root: string
  #seen: number

  /** @param root - Where `/proc` and `/sys` are. */
  constructor(root = '/') {
    this.#root = root
    this.#seen = this.#kills()
  }

  /** Whether the out-of-memory killer has killed a process of the group since the last call. */
  hasKilled(): boolean {
    const before = this.#seen
    this.#seen = this.#kills()
    return this.#seen > before
  }

  /** The group's limit in bytes; Infinity without one. */
  get limit(): number {
    const limits = this.#groups().map(({ limit }) => Number(this.#read(limit).trim() || 'max'))
    return Math.min(...limits.filter(Number.isFinite))
  }

  /** The same, as the end of a sentence about its memory. */
  describe(): string {
    const { limit } = this
    return Number.isFinite(limit)
      ? `its control group may have ${formatSize(limit)}`
      : 'the machine has too little'
  }

  /** The kernel's count of killed processes. */
  #kills(): number {
    const [own] = this.#groups()
    return Number(/^oom_kill (\d+)$/m.exec(own === undefined ? '' : this.#read(own.events))?.[1] ?? 0)
  }

  /** The files of the group and its ancestors, innermost first. */
  #groups(): { limit: string; events: string }[] {
    for (const line of this.#read('proc/self/cgroup').split('\n')) {
      const [, controllers, path] = /^\d+:([^:]*):(\/.*)$/.exec(line) ?? []
      if (path === undefined || controllers === undefined) continue
      const first = controllers.split(',').includes('memory')
      if (!first && controllers !== '') continue
      const found = []
      for (let at = path; ; at = dirname(at)) {
        const dir = join('sys/fs/cgroup', first ? 'memory' : '', at)
        found.push(
          first
            ? { limit: join(dir, 'memory.limit_in_bytes'), events: join(dir, 'memory.oom_control') }
            : { limit: join(dir, 'memory.max'), events: join(dir, 'memory.events') },
        )
        if (at === '/') break
      }
      // Both hierarchies may exist; memory is in one of them.
      if (found.some(({ limit }) => this.#read(limit) !== '')) return found
    }
    return []
  }

  #read(path: string): string {
    try {
      return readFileSync(join(this.#root, path), 'utf8')
    } catch {
      return ''
    }
  }
}
