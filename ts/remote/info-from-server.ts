/** Devices as their servers report them, for when the driver cannot be asked: that takes io_uring, which may be disabled. */
import { readdirSync } from 'node:fs'
import { wrap } from '../errors.js'
import type { DeviceInfo } from '../info.js'
import { connect } from './control-client.js'

/** How long a server has to answer, in milliseconds. */
const BRIEF = 2000

/**
 * The device as its server reports it, if io_uring is not available here.
 *
 * @throws UblkError: the original failure, if the server cannot report it either.
 */
export async function ofServer(id: number, failure: unknown): Promise<DeviceInfo> {
  const error = wrap(failure)
  if (error.kind !== 'no-io-uring') throw error
  try {
    using server = await connect(id, BRIEF)
    return await server.device(BRIEF)
  } catch {
    throw error
  }
}

/** The same for all devices. A device whose server does not answer has the state `unknown`. */
export async function devicesOfServers(failure: unknown): Promise<DeviceInfo[]> {
  const error = wrap(failure)
  if (error.kind !== 'no-io-uring') throw error
  return await Promise.all(ids().map(async id => await ofServer(id, error).catch(() => unknown(id))))
}

function ids(): number[] {
  let names: string[] = []
  try {
    names = readdirSync('/sys/class/ublk-char')
  } catch {} // No driver, no devices.
  const found = names.map(name => Number(/^ublkc(\d+)$/.exec(name)?.[1] ?? Number.NaN))
  return found.filter(Number.isInteger).sort((a, b) => a - b)
}

function unknown(id: number): DeviceInfo {
  const nothing = { size: 0, blockSize: 0, physicalBlockSize: 0, queues: 0, depth: 0, maxIo: 0 }
  const discard = { discardGranularity: 0, maxDiscard: 0, maxWriteZeroes: 0 }
  const limits = { ...discard, chunk: 0, optimalIo: 0, maxSegments: 0, maxSegmentSize: 0 }
  const looks = { readOnly: false, writeCache: false, fua: false, rotational: false }
  const server = { pid: 0, serverAlive: false, transport: 'per-io', copy: 'copy', flags: [] } as const
  const paths = { path: `/dev/ublkb${id}`, charPath: `/dev/ublkc${id}` }
  return {
    id,
    state: 'unknown',
    ...paths,
    ...nothing,
    ...limits,
    ...looks,
    ...server,
    flags: [],
    ownerUid: 0,
    ownerGid: 0,
  }
}
