import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import type { FileOfDisk } from '#binding'
import type { NativeBackend } from '../backends/list.js'
import { stackToRecord } from '../backends/stack.js'
import { UblkError } from '../errors.js'
import type { Follower } from '../local-device.js'
import type { RecordOptions } from '../options/record.js'
import type { Registrar } from '../registrar.js'
import { bootId, identityOf, inodeOf, markOf } from '../remote/identity.js'
import { nameOfDevice } from '../remote/names.js'
import {
  type DeviceRecord,
  NOBODY,
  type RecordedOptions,
  readRecord,
  removeRecord,
  removeStale,
  VERSION,
  writeRecord,
} from '../remote/record-file.js'
import { openRunDir, runDir } from '../remote/run-dir.js'
import type { ServedDevice } from '../served-device.js'
import { version } from '../version.js'
import { controlMethods } from './control-methods.js'
import { ControlSocket, type Methods } from './control-socket.js'
import { toRecorded } from './recorded-options.js'

/** How long after a failure to write the record the next attempt is made, in milliseconds. */
const AGAIN = 5000

/** A device's record and socket in the run directory, through which other processes find its server. */
export class Registration implements Follower {
  #record: DeviceRecord
  readonly #methods: Methods
  readonly #path: string
  readonly #tell: (error: UblkError) => void
  #socket: ControlSocket | undefined
  /** The timer of the next attempt to write the record, while there is no record. */
  #again: NodeJS.Timeout | undefined
  #over = false
  /** Whether its record says that the device has no server. */
  #vacant = false

  private constructor(
    disk: ServedDevice,
    record: Omit<DeviceRecord, 'socket'>,
    path: string,
    tell: (error: UblkError) => void,
  ) {
    this.#record = { ...record, socket: '' }
    this.#path = path
    this.#tell = tell
    const { id, identity, server } = record
    const info = { id, identity, pid: server.pid, version: version() }
    this.#methods = controlMethods(disk, info, () => this.#appearSooner())
  }

  /**
   * Registers that this process serves a device.
   *
   * @param tell - For an existing device, which is served even without a record: called with the reason why there is no
   *   record; the attempt is repeated from time to time.
   * @throws UblkError of kind `system` if the record cannot be written, and there is no `tell`.
   */
  static async announce(
    disk: ServedDevice,
    options: RecordedOptions,
    more: RecordOptions & { files: readonly FileOfDisk[] },
    tell?: (error: UblkError) => void,
  ): Promise<Registration> {
    const { id } = disk
    const [identity, server] = [identityOf(id), markOf(process.pid)]
    if (identity === undefined || !server) throw new UblkError('system', 'sysfs and procfs are needed')
    removeStale(id, undefined)
    // A process that takes over a device knows less about it than the one that created it.
    const found = readRecord(id)
    const before = 'record' in found && found.record.identity === identity ? found.record : undefined
    const name = nameOfDevice(id)
    const record = {
      version: VERSION,
      package: version(),
      boot: bootId(),
      id,
      identity,
      server,
      created: before?.created ?? new Date().toISOString(),
      choice: before?.choice ?? disk.choice,
      files: more.files,
      log: pathOf(more.log, id, tell),
      scratch: more.scratch ?? before?.scratch ?? [],
      notes: more.notes ?? before?.notes ?? {},
      options: { ...before?.options, ...(name === undefined ? {} : { name }), ...options },
    } as const
    const registration = new Registration(disk, record, join(runDir(), `${id}.sock`), tell ?? (() => {}))
    if (tell) {
      await registration.#appearSooner()
      return registration
    }
    try {
      await registration.#appear()
      return registration
    } catch (cause) {
      registration.deleted()
      throw registration.#unrecorded(cause)
    }
  }

  /** Retries until it is written. */
  async #appearSooner({ told = false } = {}): Promise<void> {
    clearTimeout(this.#again)
    try {
      await this.#appear()
      this.#again = undefined
    } catch (cause) {
      if (!told) this.#tell(this.#unrecorded(cause))
      this.#again = setTimeout(() => void this.#appearSooner({ told: true }), AGAIN).unref()
    }
    if (this.#over) this.released()
  }

  #unrecorded(cause: unknown): UblkError {
    const { id } = this.#record
    return new UblkError('system', `cannot write a record of device ${id} in ${runDir()}: ${cause}`, {
      device: id,
      hint: 'without one no other command finds its server, and it cannot be recovered: free space there',
      cause,
    })
  }

  /** Replaces another server's socket and record by this one's. */
  async #appear(): Promise<void> {
    openRunDir()
    const before = this.#socket
    if (before === undefined || inodeOf(this.#path) !== before.inode) {
      this.#socket = await ControlSocket.listen(this.#path, this.#methods)
      before?.close()
    }
    this.#record = { ...this.#record, socket: this.#socket?.inode ?? '' }
    writeRecord(this.#record)
    this.#vacant = false
  }

  /** Removes record and socket. */
  deleted(): void {
    this.#close()
    const unrecorded = this.#again !== undefined // An earlier server's is there, if any.
    const { id, identity } = this.#record
    removeRecord(id, found => {
      if (!('record' in found) || found.record.identity !== identity) return false
      return unrecorded || this.#isOurs(found.record)
    })
  }

  /** Leaves the record for another server. */
  released(): void {
    this.waits()
    this.#close()
  }

  #close(): void {
    this.#over = true
    clearTimeout(this.#again)
    this.#socket?.close()
  }

  /** This process does not serve the device at present, and another may: the record says so. */
  waits(): void {
    clearTimeout(this.#again)
    this.#vacant = true
    const found = readRecord(this.#record.id)
    if (found.state !== 'served' || !this.#isOurs(found.record)) return // Another server has it by now.
    try {
      writeRecord({ ...found.record, server: NOBODY })
    } catch {} // No space: it is true as soon as this process has ended.
  }

  /** It serves the device again. */
  async live(): Promise<void> {
    if (this.#vacant) await this.#appearSooner()
  }

  #isOurs({ server }: DeviceRecord): boolean {
    return (
      isDeepStrictEqual(server, this.#record.server) || (this.#vacant && isDeepStrictEqual(server, NOBODY))
    )
  }

  /** The next server begins with this backend. */
  moved(backend: NativeBackend, files: readonly FileOfDisk[]): () => void {
    const before = this.#record
    this.#rewrite({ ...before, files, options: { ...before.options, backend: stackToRecord(backend) } })
    return () => this.#rewrite(before)
  }

  /** These files are removed together with the device. */
  takes(scratch: readonly string[]): void {
    this.#rewrite({ ...this.#record, scratch: [...this.#record.scratch, ...scratch] })
  }

  #rewrite(record: DeviceRecord): void {
    const before = this.#record
    this.#record = record
    try {
      writeRecord(record)
    } catch (cause) {
      this.#record = before
      throw this.#unrecorded(cause)
    }
  }

  /** Called when the future of the device is unknown. */
  exiting(): void {
    if (identityOf(this.#record.id) === this.#record.identity) this.#close()
    else this.deleted()
  }
}

/** Writes the records of devices that this process serves. */
export const registrar: Registrar = {
  prepare(options) {
    const { record } = options
    const recorded = toRecorded(options)
    openRunDir()
    const more = typeof record === 'object' ? record : {}
    return async (disk, files, tell) => await Registration.announce(disk, recorded, { ...more, files }, tell)
  },
}

/** The path of the log. For an existing device, a failure here is ignored. */
function pathOf(log: RecordOptions['log'], id: number, tell?: (error: UblkError) => void): string | null {
  if (typeof log !== 'function') return log ?? null
  try {
    return log(id)
  } catch (cause) {
    if (!tell) throw cause
    tell(
      new UblkError('system', `the record of device ${id} does not say where its log is: ${cause}`, {
        device: id,
        hint: "the function 'log' of the option 'record' has to return a path",
        cause,
      }),
    )
    return null
  }
}
