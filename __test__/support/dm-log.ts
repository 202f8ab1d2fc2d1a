import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'

// A reader of logs in the format of dm-log-writes that shares nothing with the one that is tested.

const FLAGS = { flush: 1, fua: 2, discard: 4, mark: 8, metadata: 16 }

/** An entry of a log; bytes. */
export interface LogEntry {
  readonly offset: number
  readonly length: number
  readonly flags: ReadonlySet<keyof typeof FLAGS>
  /** What was written. */
  readonly data: Buffer | undefined
  /** The name of a mark. */
  readonly mark: string | undefined
}

/** Reads a log from a file, or what another program has copied from a device. */
export function readLog(path: string): LogEntry[] {
  const log = readFileSync(path)
  if (log.readBigUInt64LE(0) !== 0x6a736677736872n || log.readBigUInt64LE(8) !== 1n) {
    throw new Error(`${path} is no log`)
  }
  const [count, sector] = [Number(log.readBigUInt64LE(16)), log.readUInt32LE(24)]
  let at = sector
  return Array.from({ length: count }, () => {
    const [place = 0, sectors = 0, bits = 0, named = 0] = [0, 8, 16, 24].map(word =>
      Number(log.readBigUInt64LE(at + word)),
    )
    const names = Object.keys(FLAGS) as (keyof typeof FLAGS)[]
    const flags = new Set(names.filter(name => bits & FLAGS[name]))
    const mark = flags.has('mark') ? log.toString('utf8', at + 32, at + 32 + named) : undefined
    const [offset, length] = [place * sector, sectors * sector]
    at += sector
    const data = flags.has('discard') || length === 0 ? undefined : log.subarray(at, at + length)
    if (data && data.length < length) throw new Error(`${path} is too short`)
    at += data?.length ?? 0
    return { offset, length, flags, data, mark }
  })
}

/** The hashes of what a disk of zeroes has after each of the first entries, as `sha1sum` has them. */
export function hashesOf(entries: readonly LogEntry[], size: number): string[] {
  const disk = Buffer.alloc(size)
  const hash = (): string => createHash('sha1').update(disk).digest('hex')
  const hashes = [hash()]
  for (const { offset, length, data } of entries) {
    if (length === 0) continue
    if (data) data.copy(disk, offset)
    else disk.fill(0, offset, offset + length)
    hashes.push(hash())
  }
  return hashes
}
