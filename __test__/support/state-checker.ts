import { type ChildProcessByStdio, spawn } from 'node:child_process'
import { createInterface, type Interface } from 'node:readline'
import type { Readable, Writable } from 'node:stream'
import { fileURLToPath } from 'node:url'

// Not the python3 of a version manager, and not a compiled file: dist-test has only those.
const PYTHON = '/usr/bin/python3'
const PROGRAM = fileURLToPath(new URL('../../__test__/support/state_checker.py', import.meta.url))

/** What is mounted, and looked for there: see the program. */
export interface Looked {
  system: 'ext4' | 'xfs'
  /** Its mount options, as mount(2) has them. */
  options?: string
  /** What to look for, and its settings. */
  what: readonly ['files' | 'sqlite' | 'postgresql', ...string[]]
}

/** A process that checks one disk after the other. */
export class StateChecker {
  readonly #child: ChildProcessByStdio<Writable, Readable, null>
  readonly #lines: Interface
  readonly #answers: AsyncIterator<string>

  /** @param dir - Where the disks are mounted. */
  constructor(dir: string, { system, options = '', what }: Looked) {
    this.#child = spawn(PYTHON, [PROGRAM, dir, system, options, ...what], {
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    this.#lines = createInterface(this.#child.stdout)
    this.#answers = this.#lines[Symbol.asyncIterator]()
  }

  /** The number of what is there on a disk, or what is wrong with it. */
  async check(path: string): Promise<string> {
    this.#child.stdin.write(`${path}\n`)
    const { value, done } = await this.#answers.next()
    if (done) throw new Error('the program that checks disks has ended')
    return value
  }

  end(): void {
    this.#child.stdin.end()
    this.#lines.close()
  }
}
