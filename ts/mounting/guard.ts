import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { fileURLToPath } from 'node:url'
import { identityOf } from '../remote/identity.js'
import type { Mount } from './mount.js'
import { ENVIRONMENT } from './program.js'

/** The program that deletes a device. */
const MAIN = fileURLToPath(new URL('../bin/ublk-ts.cjs', import.meta.url))

/**
 * Without the word `done` the process that it guards is gone. umount may wait for the disk, which has no server: so the device is
 * deleted at the same time. Only the disk's own mount is unmounted; mount may still have been running when the process was killed.
 */
const SCRIPT = `
IFS= read -r word || word=
[ "$word" != done ] || exit 0
dir=$1 point=$2 device=$3 path=$4 id=$5 identity=$6 node=$7 main=$8
shift 8
unmount() {
  top=no
  while read -r _ _ number _ at rest; do
    [ "$at" = "$point" ] || continue
    source=\${rest#* - }
    source=\${source#* }
    source=\${source%% *}
    top=no
    [ "$number" != "$device" ] && [ "$source" != "$path" ] || top=yes
  done </proc/self/mountinfo
  [ "$top" = no ] || umount -l "$dir"
}
unmount &
[ "$(stat -L -c %i "/sys/class/ublk-char/ublkc$id")" != "$identity" ] || "$node" "$main" delete -f "$id"
wait
unmount
[ $# = 0 ] || rmdir "$@"`

/**
 * A process that waits until this one is gone, however it ended. Then it unmounts the disk, if it is still mounted, and deletes
 * its device, unless that is gone or another one has its number. It has a session of its own, so that a Ctrl-C does not reach it.
 */
export class Guard {
  readonly #process: ChildProcess

  /** @param created - Directories to remove, the innermost first. */
  constructor(id: number, mount: Mount | undefined, created: readonly string[]) {
    const { dir = '', point = '', device = '', path = '' } = mount ?? {}
    const words = [dir, point, device, path, `${id}`, identityOf(id) ?? 'none', process.execPath, MAIN]
    const env = Object.fromEntries(Object.entries(ENVIRONMENT).filter(([name]) => !name.startsWith('NODE_')))
    this.#process = spawn('sh', ['-c', SCRIPT, 'ublk-ts-guard', ...words, ...created], {
      stdio: ['pipe', 'ignore', 'ignore'],
      detached: true,
      cwd: '/',
      env,
    })
    this.#process.on('error', () => {}) // Without a shell there is nobody to clean up after a kill.
    this.#process.stdin?.on('error', () => {})
    this.#process.unref()
    ;(this.#process.stdin as Socket | null)?.unref()
  }

  /** It does what is left to do, and ends. */
  async release(nothingIsLeft: boolean): Promise<void> {
    if (this.#process.pid === undefined || this.#process.exitCode !== null) return
    const ended = once(this.#process, 'close')
    this.#process.ref()
    this.#process.stdin?.end(nothingIsLeft ? 'done\n' : '')
    await ended
  }
}
