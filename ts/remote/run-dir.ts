import { chmodSync, existsSync, lstatSync, mkdirSync, readlinkSync, type Stats } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
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
 * The same, created if it does not exist; its parent must exist. Its content is trusted, so no other user may write to
 * it or replace it.
 *
 * @throws UblkError of kind `system` if it cannot be created, or another user may write to it or replace it.
 */
export function openRunDir(): string {
  const dir = runDir()
  if (Buffer.byteLength(dir) > LONGEST) throw unfit(dir, `its path has more than ${LONGEST} bytes`)
  checkParents(dir)
  let ours = !process.env['UBLK_TS_RUN_DIR'] // Otherwise its owner chooses the mode.
  try {
    mkdirSync(dir, { mode: PRIVATE })
    ours = true
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    if (code !== 'EEXIST') throw unfit(dir, `it cannot be made (${code})`, cause)
  }
  const { mode } = checkRunDir(dir)
  // The umask may have restricted the mode; earlier versions, and systemd by default, let other users read it.
  if (ours && (mode & 0o777) !== PRIVATE) chmodSync(dir, PRIVATE)
  return dir
}

const PRIVATE = 0o700

/**
 * The same if it is there.
 *
 * @throws UblkError of kind `system` if another user may write to it or replace it.
 */
export function findRunDir(): string | undefined {
  const dir = runDir()
  if (look(dir, dir) === undefined) return undefined
  checkParents(dir)
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

function checkRunDir(dir: string): Stats {
  const entry = lstatSync(dir)
  if (!entry.isDirectory()) throw unfit(dir, 'it is no directory')
  if (entry.uid !== process.geteuid?.()) throw unfit(dir, `it belongs to user ${entry.uid}`)
  if (othersMayWrite(entry)) throw unfit(dir, 'others may write to it')
  return entry
}

/** The kernel's limit of symbolic links in a path. */
const MOST_LINKS = 40

/**
 * Checks each component of the path, link by link: a user who may replace a component may replace the directory. In a
 * sticky directory, such as `/tmp`, only the entry's owner may.
 */
function checkParents(dir: string): void {
  const names = dirname(dir).split('/').filter(Boolean)
  let at = '/'
  let links = 0
  checkParent(dir, at, look(dir, at))
  for (let name = names.shift(); name !== undefined; name = names.shift()) {
    const next = join(at, name) // `at` has no links left, so join() resolves '..' correctly
    const entry = look(dir, next)
    if (!entry) return // Creating the directory will report that.
    checkParent(dir, next, entry)
    if (!entry.isSymbolicLink()) {
      at = next
      continue
    }
    if (++links > MOST_LINKS) throw unfit(dir, 'there are too many symbolic links in its path')
    const target = readlinkSync(next)
    if (target.startsWith('/')) at = '/'
    names.unshift(...target.split('/').filter(Boolean))
  }
}

/** The entry at a path, if there is one. */
function look(dir: string, path: string): Stats | undefined {
  try {
    return lstatSync(path, { throwIfNoEntry: false })
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    if (code === 'ENOTDIR') return undefined
    throw unfit(dir, `${path} cannot be read (${code})`, cause)
  }
}

function checkParent(dir: string, path: string, entry: Stats | undefined): void {
  if (!entry) return
  if (entry.uid !== 0 && entry.uid !== process.geteuid?.()) {
    throw unfit(dir, `${path} belongs to user ${entry.uid}, who could replace it`)
  }
  if (entry.isDirectory() && othersMayWrite(entry) && (entry.mode & STICKY) === 0) {
    throw unfit(dir, `others may write to ${path}, and so replace it`)
  }
}

const STICKY = 0o1000

/** A symbolic link's own mode is meaningless. */
function othersMayWrite({ mode }: Stats): boolean {
  return (mode & 0o022) !== 0
}

function unfit(dir: string, why: string, cause?: unknown): UblkError {
  return new UblkError('system', `the run directory ${dir} cannot be used: ${why}`, {
    hint: 'set UBLK_TS_RUN_DIR to a directory of your own',
    cause,
  })
}
