import { join } from 'node:path'
import type { UblkDevice } from '../device.js'
import { UblkError } from '../errors.js'
import { version } from '../version.js'
import { ControlSocket, type Methods } from './control.js'
import { methodsFor } from './methods.js'
import { type DeviceRecord, readRecord, removeRecord, removeStale, VERSION, writeRecord } from './record.js'
import type { Json, RecordedOptions } from './recorded.js'
import { openRunDir } from './run-dir.js'
import { bootId, identityOf, inodeOf, markOf } from './system.js'

/** What else a device's record is to say; see `CreateOptions.record`. */
export interface RecordOptions {
  /** Where the server logs to, for those who look; or a function of the device's number that says so. */
  log?: string | ((id: number) => string)
  /** Files that are to be removed with the device, whoever deletes it. */
  scratch?: readonly string[]
  /** Anything that whoever takes the device over may want to know. */
  notes?: { readonly [key: string]: Json }
}

/** What a server leaves in the run directory, so that others find it: its device's record, and a socket. */
export class Presence {
  #record: DeviceRecord
  readonly #methods: Methods
  readonly #path: string
  #socket: ControlSocket | undefined

  private constructor(disk: UblkDevice, record: Omit<DeviceRecord, 'socket'>, path: string) {
    this.#record = { ...record, socket: '' }
    this.#path = path
    const { id, identity, server } = record
    const info = { id, identity, pid: server.pid, version: version() }
    this.#methods = methodsFor(disk, info, () => this.#appear())
  }

  /**
   * Makes it known that this process serves a device.
   *
   * @throws UblkError of kind `system` if that cannot be written down.
   */
  static async announce(disk: UblkDevice, options: RecordedOptions, more: RecordOptions): Promise<Presence> {
    const { id } = disk
    const dir = openRunDir()
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
      log: (typeof more.log === 'function' ? more.log(id) : more.log) ?? null,
      scratch: more.scratch ?? before?.scratch ?? [],
      notes: more.notes ?? before?.notes ?? {},
      options: { ...before?.options, ...options },
    } as const
    const presence = new Presence(disk, record, join(dir, `${id}.sock`))
    try {
      await presence.#appear()
      return presence
    } catch (cause) {
      presence.withdraw()
      throw new UblkError('system', `cannot leave a record of device ${id} in ${dir}: ${cause}`, {
        device: id,
        cause,
      })
    }
  }

  /** Puts socket and record where they are looked for, in place of another server's. */
  async #appear(): Promise<void> {
    const before = this.#socket
    if (before === undefined || inodeOf(this.#path) !== before.inode) {
      this.#socket = await ControlSocket.listen(this.#path, this.#methods)
      before?.close()
    }
    this.#record = { ...this.#record, socket: this.#socket?.inode ?? '' }
    writeRecord(this.#record)
  }

  /** The device is gone: nothing of it is left. */
  withdraw(): void {
    this.leave()
    const { id, identity, server } = this.#record
    removeRecord(
      id,
      found =>
        'record' in found && found.record.identity === identity && found.record.server.pid === server.pid,
    )
  }

  /** The device stays, for another server. */
  leave(): void {
    this.#socket?.close()
  }

  /** This process ends, and what becomes of the device is not known. */
  exit(): void {
    if (identityOf(this.#record.id) === this.#record.identity) this.leave()
    else this.withdraw()
  }
}
