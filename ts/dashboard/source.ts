import { stat } from 'node:fs/promises'
import type { Described, Kind } from '../backends/kind.js'
import { kindOf } from '../backends/list.js'
import { summaryOf } from '../backends/stack.js'
import type { UblkDevice } from '../device.js'
import type { HeatPart } from '../info.js'
import { connect } from '../remote/control-client.js'
import { identityOf } from '../remote/identity.js'
import { readBackend } from '../remote/record-file.js'
import { type Reading, Readings } from '../watch/readings.js'
import type { About, Action, FileSize, StackPart } from './protocol.js'

/** Where the dashboard has its data from. */
export interface Source extends Disposable {
  /** The counters of all disks. */
  read(): Promise<readonly Reading[]>
  /** Tells a disk from a later one of the same number. */
  identity(id: number): string | undefined
  /** Of what a disk is made. */
  describe(id: number): Pick<About, 'backend' | 'source'>
  /** The same with the space that its files take up. */
  stack(id: number): Promise<readonly StackPart[]>
  /** Calls `listener` once a second with where a disk was read and written, until the signal aborts, or it fails. */
  heat(id: number, listener: (part: HeatPart) => void, signal: AbortSignal): Promise<void>
  /** Changes a disk. */
  act(id: number, action: Action): Promise<void>
}

/** The disks of this machine, from the servers that have records. */
export class Machine implements Source {
  readonly #devices: Pick<typeof UblkDevice, 'list' | 'open'>
  readonly #readings: Readings

  constructor(devices: Pick<typeof UblkDevice, 'list' | 'open'>) {
    this.#devices = devices
    this.#readings = new Readings(devices)
  }

  async read(): Promise<readonly Reading[]> {
    return await this.#readings.all()
  }

  identity(id: number): string | undefined {
    return identityOf(id)
  }

  describe(id: number): Pick<About, 'backend' | 'source'> {
    const backend = readBackend(id)
    return { backend: kindOf(backend)?.name ?? '', source: summaryOf(backend) }
  }

  async stack(id: number): Promise<readonly StackPart[]> {
    return await Promise.all(partsOf(readBackend(id), 0))
  }

  async heat(id: number, listener: (part: HeatPart) => void, signal: AbortSignal): Promise<void> {
    using server = await connect(id)
    await server.heat(listener, signal)
  }

  async act(id: number, action: Action): Promise<void> {
    const { faults } = await this.#devices.open(id)
    if (action === 'thaw') await faults.thaw()
    else await faults.clear()
  }

  [Symbol.dispose](): void {
    this.#readings[Symbol.dispose]()
  }
}

function partsOf(backend: unknown, level: number): Promise<StackPart>[] {
  const kind = kindOf(backend)
  if (!kind) return []
  const described = backend as Described
  const below = kind.below?.(described) ?? []
  return [partOf(described, kind, level), ...below.flatMap(each => partsOf(each, level + 1))]
}

async function partOf(backend: Described, kind: Kind, level: number): Promise<StackPart> {
  const files = await Promise.all((kind.paths?.(backend) ?? []).map(sizeOf))
  return { level, kind: kind.name, label: kind.label(backend), files }
}

/** The kernel counts blocks of 512 bytes. */
async function sizeOf(path: string): Promise<FileSize> {
  const found = await stat(path).catch(() => undefined)
  return { path, size: found?.size ?? null, bytes: found ? found.blocks * 512 : null }
}
