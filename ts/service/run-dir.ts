import { existsSync, lstatSync, mkdirSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { UblkError } from '../errors.js'

/** The path of a Unix socket has at most 107 bytes; ours are in the directory, and have names of up to 24. */
const LONGEST = 80

/**
 * Where servers leave what other processes need to find them: `$UBLK_TS_RUN_DIR`; else `/run/ublk-ts` for root, and for
 * other users `ublk-ts` in `$XDG_RUNTIME_DIR` or `/run/user/<uid>`, or `/tmp/ublk-ts-<uid>`.
 */
export function runDir(): string {
  const { UBLK_TS_RUN_DIR: own, XDG_RUNTIME_DIR: session } = process.env
  if (own) return resolve(own)
  const uid = process.geteuid?.() ?? 0
  if (uid === 0) return '/run/ublk-ts'
  const users = session || `/run/user/${uid}`
  return existsSync(users) ? join(users, 'ublk-ts') : `/tmp/ublk-ts-${uid}`
}

/**
 * The same, made in an existing directory if it is not there. What is in it is trusted, so it has to be ours alone.
 *
 * @throws UblkError of kind `system` if it cannot be made, or somebody else may write to it.
 */
export function openRunDir(): string {
  const dir = runDir()
  if (Buffer.byteLength(dir) > LONGEST) throw unfit(dir, `its path has more than ${LONGEST} bytes`)
  try {
    mkdirSync(dir, { mode: process.geteuid?.() === 0 ? 0o755 : 0o700 })
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    if (code !== 'EEXIST') throw unfit(dir, `it cannot be made (${code})`, cause)
  }
  checkRunDir(dir)
  return dir
}

/**
 * The same if it is there.
 *
 * @throws UblkError of kind `system` if somebody else may write to it.
 */
export function findRunDir(): string | undefined {
  const dir = runDir()
  if (lstatSync(dir, { throwIfNoEntry: false }) === undefined) return undefined
  checkRunDir(dir)
  return dir
}

/** The same if it is there and ours: for a mere look, what is not ours is as good as nothing. */
export function trustedRunDir(): string | undefined {
  try {
    return findRunDir()
  } catch {
    return undefined
  }
}

function checkRunDir(dir: string): void {
  const entry = lstatSync(dir)
  if (!entry.isDirectory()) throw unfit(dir, 'it is no directory')
  if (entry.uid !== process.geteuid?.()) throw unfit(dir, `it belongs to user ${entry.uid}`)
  if ((entry.mode & 0o022) !== 0) throw unfit(dir, 'others may write to it')
}

function unfit(dir: string, why: string, cause?: unknown): UblkError {
  return new UblkError('system', `the run directory ${dir} cannot be used: ${why}`, {
    hint: 'set UBLK_TS_RUN_DIR to a directory of your own',
    cause,
  })
}
