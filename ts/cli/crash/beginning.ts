import { open } from 'node:fs/promises'
import { parseJson } from '../../option-values.js'

/** What the format of a log cannot hold, and what is needed for its states. It stands behind the log in the file. */
export interface Beginning {
  /** The size of the disk in bytes. */
  readonly size: number
  /** What it writes whole or not at all, in bytes. */
  readonly unit: number
  readonly seed: number
  /** The disk that it began with; undefined: zeroes. */
  readonly over?: unknown
}

/** The last bytes of a log that has a {@link Beginning}; before them stand its JSON, and its length in eight bytes. */
const MAGIC = Buffer.from('ublk-ts\n')
const TAIL = 8 + MAGIC.length
/** A longer one is none. */
const LONGEST = 2 ** 20

/** Puts it behind a log. */
export async function appendBeginning(path: string, beginning: Beginning): Promise<void> {
  const json = Buffer.from(JSON.stringify(beginning))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.length))
  const log = await open(path, 'a')
  try {
    await log.writeFile(Buffer.concat([json, length, MAGIC]))
    await log.sync()
  } finally {
    await log.close()
  }
}

/** What stands behind a log; nothing behind one of another program. */
export async function readBeginning(path: string): Promise<Partial<Beginning>> {
  const log = await open(path, 'r')
  try {
    const { size } = await log.stat()
    const tail = await readAt(log, size - TAIL, TAIL)
    if (!tail.subarray(8).equals(MAGIC)) return {}
    const length = Number(tail.readBigUInt64LE())
    if (length > Math.min(LONGEST, size - TAIL)) return {}
    const json = await readAt(log, size - TAIL - length, length)
    return checked(parseJson(json.toString()))
  } catch {
    return {} // The log itself is checked when it is read.
  } finally {
    await log.close()
  }
}

type Opened = Awaited<ReturnType<typeof open>>

async function readAt(log: Opened, at: number, length: number): Promise<Buffer> {
  const { buffer, bytesRead } = await log.read(Buffer.alloc(length), 0, length, Math.max(at, 0))
  return buffer.subarray(0, bytesRead)
}

/** powercut() checks the values. */
function checked(beginning: unknown): Partial<Beginning> {
  const isObject = typeof beginning === 'object' && beginning !== null && !Array.isArray(beginning)
  return isObject ? beginning : {}
}
