import { once } from 'node:events'
import type { Socket } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { DiffWishes } from '#binding'
import { UblkError, wrap } from '../errors.js'
import type {
  ChangedPart,
  Checkpoint,
  DeviceInfo,
  DiskLayer,
  DiskRange,
  FlattenProgress,
  HeatPart,
  LazyProgress,
  MirrorSide,
  QueueStats,
  ServerConnection,
  StoredVolume,
  VolumeSnapshot,
} from '../info.js'
import type { Json } from '../json.js'
import type { Size } from '../size.js'
import type { TraceListener } from '../trace.js'
import { onRejection } from '../user-values.js'
import { type Reply, readReply } from './control-dialects.js'
import {
  type Request,
  receive,
  type ServerInfo,
  type Supervision,
  send,
  type TracePart,
} from './control-protocol.js'
import { identityOf } from './identity.js'
import { readRecord } from './record-file.js'
import { findRunDir } from './run-dir.js'

/** How to wait for an answer. */
interface Waiting {
  /** The time limit in milliseconds; 0: none. */
  readonly timeout?: number
  /** Gives up, and closes the connection. */
  readonly signal?: AbortSignal | undefined
  /** Takes parts of the answer that come before its end. */
  readonly onPart?: (part: unknown) => void
}

/** How long a server has to answer, in milliseconds. */
const PROMPT = 10_000
/** The same for long operations. */
const PATIENT = 60_000

/** The maximum length of an answer, in characters. */
const LONGEST = 2 ** 26

/**
 * Connects to the server of a device that has a record.
 *
 * @param timeout - How long it has to answer, in milliseconds.
 * @throws UblkError of kind `not-found` if there is no server with a socket; `timeout` if it does not answer.
 */
export async function connect(id: number, timeout: number = PROMPT): Promise<ControlClient> {
  await refuseStopped(id)
  const dir = findRunDir()
  const socket = dir === undefined ? undefined : await open(join(dir, `${id}.sock`), timeout)
  if (!socket) throw nobody(id)
  const server = new ControlClient(id, socket)
  try {
    // A server that has lost its device may still run.
    const { identity } = await server.info(timeout)
    if (identity === identityOf(id)) return server
    throw nobody(id)
  } catch (error) {
    server.close()
    throw error
  }
}

async function open(path: string, timeout: number): Promise<Socket | undefined> {
  const { createConnection } = await import('node:net') // Most programs ask no server.
  const socket = createConnection(path)
  try {
    const late = sleep(timeout, 'late', { ref: false })
    if ((await Promise.race([once(socket, 'connect'), late])) !== 'late') return socket
  } catch {}
  socket.destroy()
  return undefined
}

/** Fails at once if the server is stopped (SIGSTOP): it would not answer. */
async function refuseStopped(id: number): Promise<void> {
  const found = readRecord(id)
  // Commands have to start, and explain, where the native part cannot be loaded.
  const { serverOf } = await import('#binding')
  const server = found.state === 'served' ? serverOf(id, found.record.server.pid) : null
  if (!server || server.condition === 'runs' || server.condition === 'gone') return
  throw new UblkError(
    'timeout',
    `the server of device ${id}, process ${server.pid}, is ${server.condition}`,
    {
      device: id,
      hint: `continue it (kill -CONT ${server.pid}), or delete the device by force`,
    },
  )
}

function nobody(id: number): UblkError {
  return new UblkError('not-found', `nobody can be asked about device ${id}`, {
    device: id,
    hint: 'its server has to run, and the device has to have a record: {record} writes one',
  })
}

/** A server in another process. */
export class ControlClient implements Disposable {
  readonly #id: number
  readonly #socket: Socket
  readonly #calls = new Map<number, { take: (reply: Reply) => void; fail: (error: UblkError) => void }>()
  #last = 0

  constructor(id: number, socket: Socket) {
    this.#id = id
    this.#socket = socket
    const end = (why: string): void => {
      for (const { fail } of this.#calls.values()) fail(this.#failure('system', why))
      socket.destroy()
    }
    socket.on('error', () => {})
    socket.once('close', () => end('closed the connection'))
    receive(
      socket,
      LONGEST,
      message => {
        const reply = readReply(message)
        if (reply === undefined) return
        if (reply.id !== null) this.#calls.get(reply.id)?.take(reply)
        // It refuses this client, and closes the connection.
        else if ('error' in reply) for (const { fail } of this.#calls.values()) fail(reply.error)
      },
      end,
    )
  }

  /** Its device, process and version. */
  async info(timeout: number = PROMPT): Promise<ServerInfo> {
    return (await this.#call('info', {}, { timeout })) as ServerInfo
  }

  /** Counters of each queue since it was started. */
  async stats(timeout: number = PROMPT): Promise<QueueStats[]> {
    return (await this.#call('stats', {}, { timeout })) as QueueStats[]
  }

  /** How much of a lazy disk is there; null of another disk, and from servers of earlier versions. */
  async lazyProgress(timeout: number = PROMPT): Promise<LazyProgress | null> {
    return await this.#maybe('lazyProgress', timeout)
  }

  /** How it stands with NBD servers; null of a disk without one, and from servers of earlier versions. */
  async connection(timeout: number = PROMPT): Promise<ServerConnection | null> {
    return await this.#maybe('connection', timeout)
  }

  /** How it stands with the volume in an object store; null of another disk, and from servers of earlier versions. */
  async volume(timeout: number = PROMPT): Promise<StoredVolume | null> {
    return await this.#maybe('volume', timeout)
  }

  async #maybe<T>(method: string, timeout: number): Promise<T | null> {
    try {
      return (await this.#call(method, {}, { timeout })) as T | null
    } catch (error) {
      if (wrap(error).kind === 'invalid') return null
      throw error
    }
  }

  /** Has it fetch parts of a lazy disk. Without a limit in time; if this connection goes, it gives up. */
  async prefetch(ranges: readonly DiskRange[], signal?: AbortSignal): Promise<void> {
    await this.#call('prefetch', { ranges }, { timeout: 0, signal })
  }

  /** Makes a checkpoint. */
  async checkpoint(name: string): Promise<void> {
    await this.#call('checkpoint', { name }, { timeout: PATIENT })
  }

  /** All checkpoints. */
  async checkpoints(): Promise<Checkpoint[]> {
    return (await this.#call('checkpoints', {}, { timeout: PROMPT })) as Checkpoint[]
  }

  /** Removes one. */
  async removeCheckpoint(name: string): Promise<void> {
    await this.#call('removeCheckpoint', { name }, { timeout: PATIENT })
  }

  /** What was changed since one, from an offset on. */
  async changedPart(since: string, from: number): Promise<ChangedPart> {
    return (await this.#call('changedPart', { since, from }, { timeout: PATIENT })) as ChangedPart
  }

  /** Has it write a diff. Without a limit in time; if this connection goes, it gives up. */
  async diff(diff: DiffWishes, signal?: AbortSignal): Promise<void> {
    await this.#call('diff', { ...diff }, { timeout: 0, signal })
  }

  /** Gives a disk with faults other rules. */
  async setFaults(plan: object): Promise<void> {
    await this.#call('setFaults', plan)
  }

  /** What its rules have done. */
  async faults<Report>(timeout: number = PROMPT): Promise<Report> {
    return (await this.#call('faults', {}, { timeout })) as Report
  }

  /** Lets its requests that hang go on. */
  async thaw(): Promise<number> {
    return (await this.#call('thaw', {})) as number
  }

  /** Gives the present moment of a recorded disk a name. */
  async mark(name: string): Promise<void> {
    await this.#call('mark', { name })
  }

  /** Has it write the log of a recorded disk. Without a limit in time; if this connection goes, it gives up. */
  async exportLog<Exported>(path: string, signal?: AbortSignal): Promise<Exported> {
    return (await this.#call('exportLog', { path }, { timeout: 0, signal })) as Exported
  }

  /** Resizes the disk. */
  async resize(size: Size, options: { force?: boolean; signal?: AbortSignal | undefined }): Promise<void> {
    const { force = false, signal } = options
    await this.#call('resize', { size, force }, { timeout: PATIENT, signal })
  }

  /** Makes a snapshot of the disk. */
  async snapshot(name: string): Promise<void> {
    await this.#call('snapshot', { name }, { timeout: PATIENT })
  }

  /** The snapshots of its volume. */
  async snapshots(): Promise<VolumeSnapshot[]> {
    return (await this.#call('snapshots', {}, { timeout: PROMPT })) as VolumeSnapshot[]
  }

  /** Removes one. */
  async removeSnapshot(name: string): Promise<void> {
    await this.#call('removeSnapshot', { name }, { timeout: PATIENT })
  }

  /** Throws away what was written since the last one. */
  async reset(options: { force?: boolean; signal?: AbortSignal | undefined }): Promise<void> {
    const { force = false, signal } = options
    await this.#call('reset', { force }, { timeout: PATIENT, signal })
  }

  /** Copies to the upper all that it lacks. Without a limit in time; if this connection goes, it ends. */
  async flatten(rate: number | undefined, signal?: AbortSignal): Promise<void> {
    await this.#call('flatten', { rate }, { timeout: 0, signal })
  }

  /** Puts what was written into its base. Without a limit in time; if this connection goes, it ends. */
  async commit(rate: number | undefined, force: boolean, signal?: AbortSignal): Promise<void> {
    await this.#call('commit', { rate, force }, { timeout: 0, signal })
  }

  /** How far that has come; null if it is not under way. */
  async committing(timeout: number = PROMPT): Promise<FlattenProgress | null> {
    try {
      return (await this.#call('committing', {}, { timeout })) as FlattenProgress | null
    } catch (error) {
      if (wrap(error).kind === 'invalid') return null
      throw error
    }
  }

  /** How far a flatten has come; null if it is not under way, and from servers of earlier versions. */
  async flattening(timeout: number = PROMPT): Promise<FlattenProgress | null> {
    try {
      return (await this.#call('flattening', {}, { timeout })) as FlattenProgress | null
    } catch (error) {
      if (wrap(error).kind === 'invalid') return null
      throw error
    }
  }

  /** Brings back sides of a mirror. Without a limit in time; if this connection goes, it ends. */
  async resync(rate: number | undefined, signal?: AbortSignal): Promise<void> {
    await this.#call('resync', { rate }, { timeout: 0, signal })
  }

  /** How far that has come; null if it is not under way. */
  async resyncing(timeout: number = PROMPT): Promise<FlattenProgress | null> {
    return (await this.#call('resyncing', {}, { timeout })) as FlattenProgress | null
  }

  /** The sides of a mirror. */
  async sides(timeout: number = PROMPT): Promise<MirrorSide[]> {
    return (await this.#call('sides', {}, { timeout })) as MirrorSide[]
  }

  /** Moves the disk to another backend, as a record has it. Without a limit in time; if this connection goes, it ends. */
  async move(
    backend: Json,
    rate: number | undefined,
    overwrite: boolean,
    signal?: AbortSignal,
  ): Promise<void> {
    await this.#call('move', { backend, rate, overwrite }, { timeout: 0, signal })
  }

  /** How far that has come; null if it is not under way, and from servers of earlier versions. */
  async moving(timeout: number = PROMPT): Promise<FlattenProgress | null> {
    try {
      return (await this.#call('moving', {}, { timeout })) as FlattenProgress | null
    } catch (error) {
      if (wrap(error).kind === 'invalid') return null
      throw error
    }
  }

  /** What was written over the disk's base. None from servers of earlier versions. */
  async layers(timeout: number = PROMPT): Promise<DiskLayer[]> {
    try {
      return (await this.#call('layers', {}, { timeout })) as DiskLayer[]
    } catch (error) {
      if (wrap(error).kind === 'invalid') return []
      throw error
    }
  }

  /** Has it quiesce the device for another process. If this connection is closed, it takes the device back. */
  async quiesce(): Promise<void> {
    await this.#call('quiesce', {}, { timeout: PATIENT })
  }

  /** Has it take the device back. */
  async resume(): Promise<void> {
    await this.#call('resume', {}, { timeout: PATIENT })
  }

  /** Tells it that another process serves the device now, so that it ends. Its supervisor then watches the new server. */
  async release(): Promise<Supervision> {
    return (await this.#call('release', {}, { timeout: PATIENT })) as Supervision
  }

  /**
   * Calls `listener` with the requests of the device until the signal aborts or the device is deleted. The connection can
   * be used for nothing else afterwards.
   *
   * @throws what the listener throws.
   */
  async trace(listener: TraceListener, signal: AbortSignal | undefined): Promise<void> {
    const failed = new AbortController()
    let failure: unknown
    const fail = (error: unknown): void => {
      failure ??= error
      failed.abort()
    }
    const ended = signal ? AbortSignal.any([signal, failed.signal]) : failed.signal
    const onPart = (part: unknown): void => {
      const { records, dropped } = part as TracePart
      try {
        if (!ended.aborted) onRejection(listener(records, dropped), fail)
      } catch (error) {
        fail(error)
      }
    }
    try {
      await this.#call('trace', {}, { timeout: 0, signal: ended, onPart })
    } catch (error) {
      if (failed.signal.aborted) throw failure
      if (!signal?.aborted) throw error
    }
  }

  /**
   * Calls `listener` once a second with where its disk was read and written, until the signal aborts, which closes the connection.
   *
   * @throws UblkError of kind `invalid` from servers of earlier versions; `limit` if the device is traced eight times already.
   */
  async heat(listener: (part: HeatPart) => void, signal: AbortSignal): Promise<void> {
    const onPart = (part: unknown): void => listener(part as HeatPart)
    try {
      await this.#call('heat', {}, { timeout: 0, signal, onPart })
    } catch (error) {
      if (!signal.aborted) throw error
    }
  }

  /** Tells the server to delete the device. With `patient` the answer may take as long as the disk's requests do. */
  async shutdown(options: { force?: boolean; patient?: boolean } = {}): Promise<void> {
    const { force = false, patient = false } = options
    await this.#call('shutdown', { force, wait: false }, { timeout: patient ? 0 : PATIENT })
  }

  /** The device as the driver reports it. Servers of earlier versions do not have this method. */
  async device(timeout: number = PROMPT): Promise<DeviceInfo> {
    return (await this.#call('device', {}, { timeout })) as DeviceInfo
  }

  /** Ends the connection. */
  close(): void {
    this.#socket.destroy()
  }

  [Symbol.dispose](): void {
    this.close()
  }

  async #call(method: string, params: object, waiting: Waiting = {}): Promise<unknown> {
    const { timeout = PROMPT, signal, onPart } = waiting
    signal?.throwIfAborted()
    if (this.#socket.destroyed) throw this.#failure('system', 'closed the connection')
    const id = ++this.#last
    let late: NodeJS.Timeout | undefined
    const abort = (): void => this.close()
    try {
      return await new Promise((resolve, reject) => {
        const take = (reply: Reply): void => {
          if ('part' in reply) onPart?.(reply.part)
          else if ('error' in reply) reject(reply.error)
          else resolve(reply.result)
        }
        this.#calls.set(id, { take, fail: reject })
        signal?.addEventListener('abort', abort, { once: true })
        if (timeout > 0) {
          late = setTimeout(
            () => reject(this.#failure('timeout', `did not answer in ${timeout / 1000} s`)),
            timeout,
          )
        }
        send(this.#socket, { jsonrpc: '2.0', id, method, params: { ...params } } satisfies Request)
      })
    } catch (error) {
      signal?.throwIfAborted()
      throw error
    } finally {
      clearTimeout(late)
      signal?.removeEventListener('abort', abort)
      this.#calls.delete(id)
    }
  }

  #failure(kind: 'system' | 'timeout', what: string): UblkError {
    return new UblkError(kind, `the server of device ${this.#id} ${what}`, { device: this.#id })
  }
}
