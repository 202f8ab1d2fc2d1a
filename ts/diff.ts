import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import type { Writable } from 'node:stream'
import type { DiffWishes } from '#binding'
import { checkName } from './changes.js'
import { checkOptions, checkSignal } from './check.js'
import { invalid, UblkError, wrap, wrongType } from './errors.js'
import { pathOf } from './path.js'
import { nameOf } from './user-values.js'

/** Which diff to write, and where; see {@link UblkDevice.diff}. */
export interface DiffOptions {
  /** The name of the checkpoint. Without it: all of the disk. */
  since?: string
  /**
   * The path of the file, which must not exist: it appears when it is complete. Or a stream of this process, which is not
   * ended.
   */
  out: string | URL | Writable
  /**
   * - `stream`: the changed ranges, with checksums, for {@link applyDiff}. The only one that can go to a stream.
   * - `raw`: a sparse file of the disk's size, with holes where nothing was changed, and beside it `OUT.json`, the list of what
   *   was changed, for {@link applyDiff}, too. Without the list, zeroes that were written cannot be told from holes.
   * - `qcow2`: an image that reads what was not changed from its backing file.
   *
   * @defaultValue `stream`
   */
  format?: 'stream' | 'raw' | 'qcow2'
  /**
   * For `qcow2` with `since`: the copy of the disk as it was at the checkpoint, as the image names it: relative to the image's
   * directory, if it is not absolute. It is not opened.
   */
  backing?: string
  /** @defaultValue `raw` */
  backingFormat?: 'raw' | 'qcow2'
  /** Ends it. No file is left. */
  signal?: AbortSignal
}

/** QEMU reads no longer names of backing files, in bytes. */
const LONGEST_NAME = 1023

/** A diff that was asked for, checked. */
export interface CheckedDiff extends DiffWishes {
  /** Where it goes, if it is no file. */
  readonly to?: Writable
}

/**
 * Checks which diff was asked for.
 *
 * @throws UblkError of kind `invalid`.
 */
export function checkDiff(options: unknown): CheckedDiff {
  checkOptions<DiffOptions>(options, 'diff()', {
    since: true,
    out: true,
    format: true,
    backing: true,
    backingFormat: true,
    signal: true,
  })
  const { since, out, format = 'stream', backing, backingFormat, signal } = options
  if (since !== undefined) checkName(since)
  checkSignal(signal)
  if (!['stream', 'raw', 'qcow2'].includes(format)) {
    throw invalid(`the format must be 'stream', 'raw' or 'qcow2', not ${nameOf(format)}`)
  }
  if (format !== 'qcow2' && (backing ?? backingFormat) !== undefined) {
    throw invalid(`a diff of the format ${format} has no backing file`, "'qcow2' has one")
  }
  if (format === 'qcow2') checkBacking(since, backing, backingFormat)
  const wishes = {
    ...(since === undefined ? {} : { since }),
    format,
    ...(backing === undefined ? {} : { backing }),
    ...(backingFormat === undefined ? {} : { backingFormat }),
  }
  if (isWritable(out)) {
    if (format === 'stream') return { ...wishes, out: '', socket: true, to: out }
    throw invalid(`a diff of the format ${format} needs a file`, "'stream' can go to a stream")
  }
  return { ...wishes, out: resolve(pathOf(out, 'the path of the diff')), socket: false }
}

function checkBacking(since: string | undefined, backing: unknown, backingFormat: unknown): void {
  if (since === undefined && backing !== undefined) {
    throw invalid('an image of all of the disk has no backing file', 'name a checkpoint, or leave it out')
  }
  if (since !== undefined && backing === undefined) {
    throw invalid(
      'an image of what was changed has a backing file',
      'name the copy of the disk as it was at the checkpoint',
    )
  }
  const right = typeof backing === 'string' && backing !== '' && !/[\0\n]/.test(backing)
  if (backing !== undefined && !(right && Buffer.byteLength(backing) <= LONGEST_NAME)) {
    throw wrongType(
      `the backing file must be a path of at most ${LONGEST_NAME} bytes, not ${nameOf(backing)}`,
    )
  }
  if (backingFormat !== undefined && backingFormat !== 'raw' && backingFormat !== 'qcow2') {
    throw invalid(`the format of the backing file must be 'raw' or 'qcow2', not ${nameOf(backingFormat)}`)
  }
}

function isWritable(out: unknown): out is Writable {
  const stream = out as Partial<Writable> | null
  return typeof stream === 'object' && typeof stream?.write === 'function' && typeof stream.on === 'function'
}

function notWritten(error: unknown): UblkError {
  const code = (error as { code?: unknown } | null)?.code
  const why = code === 'EPIPE' ? 'its reader has ended (EPIPE)' : wrap(error).message
  return new UblkError('backend', `cannot write the diff to its stream: ${why}`, {
    cause: error,
    ...(typeof code === 'string' ? { code } : {}),
  })
}

/** Waits until all that a stream has taken is written. */
async function written(to: Writable): Promise<void> {
  await new Promise<void>((done, fail) => to.write('', error => (error ? fail(error) : done())))
}

/** Writes a diff, which may go to a stream of this process, by the server that `write` asks. */
export async function writeDiff(
  { to, ...wishes }: CheckedDiff,
  write: (wishes: DiffWishes) => Promise<void>,
): Promise<void> {
  if (!to) return await write(wishes)
  const { createServer } = await import('node:net')
  const { pipeline } = await import('node:stream/promises')
  const dir = mkdtempSync(join(tmpdir(), 'ublk-ts-diff-')) // others cannot enter it
  const server = createServer()
  let failure: unknown
  try {
    const out = join(dir, 's')
    await new Promise<void>((done, fail) => server.once('error', fail).listen(out, done))
    const received = new Promise<void>(done => {
      server.once('connection', socket => {
        server.close()
        pipeline(socket, to, { end: false })
          .then(() => written(to))
          .catch((error: unknown) => {
            failure = notWritten(error)
            socket.destroy()
          })
          .finally(done)
      })
    })
    await write({ ...wishes, out })
    await received
  } catch (error) {
    failure ??= error
  } finally {
    server.close()
    rmSync(dir, { recursive: true, force: true })
  }
  if (failure !== undefined) throw failure
}
