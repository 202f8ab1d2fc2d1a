import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import type { FileOfDisk } from '#binding'
import type { UblkDevice } from '../device.js'
import { UblkError } from '../errors.js'
import type { Json } from '../json.js'
import { version } from '../version.js'
import { controlMethods } from './control-methods.js'
import { ControlSocket, type Methods } from './control-socket.js'
import { bootId, identityOf, inodeOf, markOf } from './identity.js'
import {
  type DeviceRecord,
  NOBODY,
  readRecord,
  removeRecord,
  removeStale,
  VERSION,
  writeRecord,
} from './record-file.js'
import type { RecordedOptions } from './recorded-options.js'
import { openRunDir, runDir } from './run-dir.js'

/** What else a device's record is to say; see `CreateOptions.record`. */
export interface RecordOptions {
  /** Where the server logs to, for those who look; or a function of the device's number that says so. */
  log?: string | ((id: number) => string)
  /** Files that are to be removed with the device, whoever deletes it. */
  scratch?: readonly string[]
  /** Anything that whoever takes the device over may want to know. */
  notes?: { readonly [key: string]: Json }
}

/** How long after a failure to write the record the next attempt is made, in milliseconds. */
const AGAIN = 5000

/** What a server leaves in the run directory, so that others find it: its device's record, and a socket. */
export class Registration {
  #record: DeviceRecord
  readonly #methods: Methods
  readonly #path: string
  readonly #tell: (error: UblkError) => void
  #socket: ControlSocket | undefined
  /** The timer of the next attempt to write the record, as long as there is none. */
  #again: NodeJS.Timeout | undefined
  #over = false
  /** Whether its record says that nobody serves the device. */
  #vacant = false

  private constructor(
    disk: UblkDevice,
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
   * Makes it known that this process serves a device.
   *
   * @param tell - For an existing device, which is served even without a record: called with the reason why there is no
   *   record; the attempt is repeated from time to time.
   * @throws UblkError of kind `system` if the record cannot be written, and there is no `tell`.
   */
  static async announce(
    disk: UblkDevice,
    options: RecordedOptions,
    more: RecordOptions & { files: readonly FileOfDisk[] },
    tell?: (error: UblkError) => void,
  ): Promise<Registration> {
    const { id } = disk
    const [identity, server] = [identityOf(id), markOf(process.pid)]
    if (identity === undefined || !server) throw new UblkError('system', 'sysfs and procfs are needed')
    removeStale(id, undefined)
    // Whoever takes a device over knows less of it than who made it.
    const found = readRecord(id)
    const before = 'record' in found && found.record.identity === identity ? found.record : undefined
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
      options: { ...before?.options, ...options },
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
      registration.withdraw()
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
    if (this.#over) this.leave()
  }

  #unrecorded(cause: unknown): UblkError {
    const { id } = this.#record
    return new UblkError('system', `cannot write a record of device ${id} in ${runDir()}: ${cause}`, {
      device: id,
      hint: 'without one no other command finds its server, and it cannot be recovered: free space there',
      cause,
    })
  }

  /** Puts socket and record where they are looked for, in place of another server's. */
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

  /** The device is gone: nothing of it is left. */
  withdraw(): void {
    this.#close()
    const unrecorded = this.#again !== undefined // An earlier server's is there, if any.
    const { id, identity } = this.#record
    removeRecord(id, found => {
      if (!('record' in found) || found.record.identity !== identity) return false
      return unrecorded || this.#isOurs(found.record)
    })
  }

  /** The device stays, for another server. */
  leave(): void {
    this.vacate()
    this.#close()
  }

  #close(): void {
    this.#over = true
    clearTimeout(this.#again)
    this.#socket?.close()
  }

  /** This process does not serve the device at present, and another may: the record says so. */
  vacate(): void {
    clearTimeout(this.#again)
    this.#vacant = true
    const found = readRecord(this.#record.id)
    if (found.state !== 'served' || !this.#isOurs(found.record)) return // Another server has it by now.
    try {
      writeRecord({ ...found.record, server: NOBODY })
    } catch {} // No space: it is true as soon as this process has ended.
  }

  /** It serves the device again. */
  async occupy(): Promise<void> {
    if (this.#vacant) await this.#appearSooner()
  }

  #isOurs({ server }: DeviceRecord): boolean {
    return (
      isDeepStrictEqual(server, this.#record.server) || (this.#vacant && isDeepStrictEqual(server, NOBODY))
    )
  }

  /** This process ends, and what becomes of the device is not known. */
  exit(): void {
    if (identityOf(this.#record.id) === this.#record.identity) this.#close()
    else this.withdraw()
  }
}

/** Where the log is. A device that was there before is worth more than that. */
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
