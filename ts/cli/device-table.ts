import { readFile } from 'node:fs/promises'
import type { ServingChoice } from '../choice.js'
import type { UblkDevice } from '../device.js'
import { wrap } from '../errors.js'
import type {
  DeviceInfo,
  DiskLayer,
  FlattenProgress,
  LazyProgress,
  ServerConnection,
  StoredVolume,
} from '../info.js'
import { type Json, toJsonText } from '../json.js'
import { nameIn, nameOfDevice } from '../remote/names.js'
import { hasNbd, hasVolume, isLazy, isOverlay, readRecord } from '../remote/record-file.js'
import { formatSize } from '../size.js'
import { connectionText } from './connection-text.js'
import { stateOf } from './device-state.js'
import type { Api } from './load-api.js'
import { type Column, toJson } from './table.js'
import { volumeText } from './volume-text.js'

/** What is looked up only if a column needs it. */
interface Sights {
  /** What uses the disk. Finding this out reads every process. */
  users: string[]
  /** The disk's I/O scheduler. */
  scheduler: string | null
  /** The command of the process that serves it. */
  server: string | null
  /** How much of a lazy disk is there. */
  lazy: LazyProgress | null
  /** How it stands with its NBD servers. */
  connection: ServerConnection | null
  volume: StoredVolume | null
  /** What was written over the base of an overlay. */
  layers: DiskLayer[]
  /** How far the flatten of an overlay has come. */
  flattening: FlattenProgress | null
  /** How far its commit has come. */
  committing: FlattenProgress | null
  /** How far its move has come. */
  moving: FlattenProgress | null
}

const unseen: Sights = {
  users: [],
  scheduler: null,
  server: null,
  lazy: null,
  connection: null,
  volume: null,
  layers: [],
  flattening: null,
  committing: null,
  moving: null,
}

/** What the listings of devices show. */
export interface DeviceRow extends DeviceInfo, Sights {
  /** Its name, of which `/dev/ublk/NAME` is a link to it. */
  name: string | null
  /** Where its server logs to. */
  log: string | null
  /** Its transport and copy mode, and why. */
  choice: ServingChoice | null
  /** What kind of backend it has. */
  backend: string | null
  /** The file or module that provides its data; for a composed backend, that of each part. */
  source: string | null
  /** Its backend in full, if that consists of other backends. */
  stack: Json
  /** The same as a drawing, with a line for each backend. */
  tree: string[]
}

/** All columns of `list`, `show` and `create --json`. */
export const deviceColumns: readonly Column<DeviceRow>[] = [
  { name: 'ID', summary: 'number of the device', value: row => row.id },
  { name: 'PATH', summary: 'path of the disk', value: row => row.path },
  { name: 'NAME', summary: 'name of the disk, which is also /dev/ublk/NAME', value: row => row.name },
  { name: 'STATE', summary: 'live, stopped, …; dead if it has no server', value: stateOf },
  { name: 'SIZE', summary: 'size of the disk', bytes: true, value: row => row.size },
  { name: 'RO', summary: 'read-only', value: row => row.readOnly },
  {
    name: 'BACKEND',
    summary: 'kind of backend, if the device has a record',
    value: row => row.backend,
  },
  {
    name: 'SOURCE',
    summary: 'file or module of the backend, or the backends it consists of',
    value: row => row.source,
  },
  {
    name: 'STACK',
    summary: 'the backend and the backends that it consists of, as a tree',
    value: row => row.tree,
    lines: true,
    json: row => row.stack,
  },
  {
    name: 'LAYERS',
    summary:
      'of an overlay: its snapshots, the oldest first, and its upper, with the space that they take up',
    value: row => drawLayers(row.layers),
    lines: true,
    json: row => row.layers.map(layer => ({ ...layer })),
  },
  {
    name: 'FLATTENED',
    summary: 'of an overlay that is being flattened: how much of the disk is copied',
    value: ({ flattening }) => flattening && percent(flattening),
    json: ({ flattening }) => flattening && { ...flattening },
  },
  {
    name: 'COMMITTED',
    summary: 'of an overlay that is being committed: how much of the disk is in its base',
    value: ({ committing }) => committing && percent(committing),
    json: ({ committing }) => committing && { ...committing },
  },
  {
    name: 'MOVED',
    summary: 'of a disk that is being moved: how much of it the other one has',
    value: ({ moving }) => moving && percent(moving),
    json: ({ moving }) => moving && { ...moving },
  },
  { name: 'QUEUES', summary: 'hardware queues', value: row => row.queues },
  { name: 'DEPTH', summary: 'requests in flight per queue', value: row => row.depth },
  { name: 'LOG-SEC', summary: 'logical block size', bytes: true, value: row => row.blockSize },
  { name: 'PHY-SEC', summary: 'physical block size', bytes: true, value: row => row.physicalBlockSize },
  { name: 'MAX-IO', summary: 'largest request', bytes: true, value: row => row.maxIo },
  { name: 'CACHE', summary: 'volatile write cache', value: row => row.writeCache },
  { name: 'FUA', summary: 'whether single writes can bypass the write cache', value: row => row.fua },
  { name: 'ROTA', summary: 'rotational', value: row => row.rotational },
  { name: 'DISC-GRAN', summary: 'discard granularity', bytes: true, value: row => row.discardGranularity },
  { name: 'DISC-MAX', summary: 'largest discard', bytes: true, value: row => row.maxDiscard },
  {
    name: 'ZERO-MAX',
    summary: 'largest write-zeroes request',
    bytes: true,
    value: row => row.maxWriteZeroes,
  },
  { name: 'CHUNK', summary: 'what no request crosses', bytes: true, value: row => row.chunk },
  { name: 'OPT-IO', summary: 'fastest size of requests', bytes: true, value: row => row.optimalIo },
  { name: 'SEGS-MAX', summary: 'most memory segments of a request', value: row => row.maxSegments },
  { name: 'SEG-MAX', summary: 'largest memory segment', bytes: true, value: row => row.maxSegmentSize },
  { name: 'SCHED', summary: 'I/O scheduler', value: row => row.scheduler },
  { name: 'PID', summary: 'process that serves it', value: row => (row.pid > 0 ? row.pid : null) },
  { name: 'ALIVE', summary: 'whether it has a server', value: row => row.serverAlive },
  { name: 'SERVER', summary: 'command of the process that serves it', value: row => row.server },
  { name: 'CHAR', summary: "path of the server's character device", value: row => row.charPath },
  { name: 'TRANSPORT', summary: 'how requests travel: per-io or batch', value: row => row.transport },
  {
    name: 'TRANSPORT-WHY',
    summary: 'reason for this transport, if the device has a record',
    value: row => row.choice?.transportBecause ?? null,
  },
  { name: 'COPY', summary: 'how data travels: copy, user or zero', value: row => row.copy },
  {
    name: 'COPY-WHY',
    summary: 'reason for this copy mode, if the device has a record',
    value: row => row.choice?.copyBecause ?? null,
  },
  { name: 'UID', summary: 'user that owns it', value: row => row.ownerUid },
  { name: 'GID', summary: 'group that owns it', value: row => row.ownerGid },
  { name: 'FLAGS', summary: 'driver features in use', value: row => row.flags },
  { name: 'LOG', summary: "the server's log file", value: row => row.log },
  { name: 'USERS', summary: 'mounts, processes and devices that use the disk', value: row => row.users },
  {
    name: 'PRESENT',
    summary: 'of a lazy disk: how much of it is in its cache',
    bytes: true,
    value: row => row.lazy?.present ?? null,
  },
  {
    name: 'DIRTY',
    summary: 'of a bounded cache: how much of that was written',
    bytes: true,
    value: row => row.lazy?.dirty ?? null,
  },
  {
    name: 'PRESENT-MAX',
    summary: 'of a bounded cache: how much of the disk fits in',
    bytes: true,
    value: row => row.lazy?.max ?? null,
  },
  {
    name: 'FETCHED',
    summary: 'of a lazy disk: how much was fetched',
    bytes: true,
    value: row => row.lazy?.fetched ?? null,
  },
  {
    name: 'FETCH-FAIL',
    summary: 'of a lazy disk: how many fetches failed',
    value: row => row.lazy?.failures ?? null,
  },
  {
    name: 'FILLING',
    summary: 'of a lazy disk: off, running, waiting after a failure, complete or full',
    value: row => row.lazy?.filling ?? null,
  },
  {
    name: 'CONNECTION',
    summary: 'of a disk at NBD servers: whether it is connected, how often that was lost, and the journal',
    value: row => row.connection && connectionText(row.connection),
    json: row => (row.connection ? { ...row.connection } : null),
  },
  {
    name: 'VOLUME',
    summary: 'of a disk in an object store: what is not stored yet, and what it takes up there and here',
    value: row => row.volume && volumeText(row.volume),
    json: row => (row.volume ? { ...row.volume } : null),
  },
]

/** The columns for which the server of a lazy disk is asked. */
const LAZY_COLUMNS: readonly string[] = [
  'PRESENT',
  'DIRTY',
  'PRESENT-MAX',
  'FETCHED',
  'FETCH-FAIL',
  'FILLING',
]

/** The columns that `list` shows by default. */
export const usualColumns: readonly string[] = [
  'ID',
  'PATH',
  'NAME',
  'STATE',
  'SIZE',
  'RO',
  'QUEUES',
  'DEPTH',
  'PID',
  'BACKEND',
  'SOURCE',
]

/** The line that is printed once a disk is usable. */
export async function announcement(disk: UblkDevice, form: 'path' | 'json'): Promise<string> {
  if (form === 'path') return disk.path
  return toJsonText(toJson('ublkdevices', deviceColumns, [await toRow(await disk.info(), unseen)]))
}

/** Looks up what the columns need. */
export async function look(
  devices: readonly DeviceInfo[],
  columns: readonly Column<DeviceRow>[],
  { open }: Pick<Api['UblkDevice'], 'open'>,
): Promise<DeviceRow[]> {
  const wanted = (name: string) => columns.some(column => column.name === name)
  const usersOf = async (id: number): Promise<string[]> => {
    try {
      return await (await open(id)).users({ quick: true })
    } catch (error) {
      if (['not-found', 'no-io-uring'].includes(wrap(error).kind)) return [] // It may have been deleted meanwhile.
      throw error
    }
  }
  const rows = devices.map(async device => {
    const users = wanted('USERS') ? await usersOf(device.id) : unseen.users
    const scheduler = wanted('SCHED') ? await schedulerOf(device) : unseen.scheduler
    const server = wanted('SERVER') ? await commandOf(device) : unseen.server
    const lazy = LAZY_COLUMNS.some(wanted) ? await lazyOf(device, open) : unseen.lazy
    const connection = wanted('CONNECTION') ? await connectionOf(device, open) : unseen.connection
    const volume = wanted('VOLUME') ? await volumeOf(device, open) : unseen.volume
    const layers = wanted('LAYERS') ? await layersOf(device, open) : unseen.layers
    const copied = async (name: Copying): Promise<FlattenProgress | null> =>
      await progressOf(device, name, open)
    const flattening = wanted('FLATTENED') ? await copied('flattening') : unseen.flattening
    const committing = wanted('COMMITTED') ? await copied('committing') : unseen.committing
    const moving = wanted('MOVED') ? await copied('moving') : unseen.moving
    const copies = { flattening, committing, moving }
    return await toRow(device, { users, scheduler, server, lazy, connection, volume, layers, ...copies })
  })
  return await Promise.all(rows)
}

/** Null for a disk without a server: on older kernels reading the file would wait for the disk's requests. */
async function schedulerOf({ id, state }: DeviceInfo): Promise<string | null> {
  if (state !== 'live') return null
  const names = await readFile(`/sys/block/ublkb${id}/queue/scheduler`, 'utf8').catch(() => '')
  return /\[(.+)\]/.exec(names)?.[1] ?? (names.trim() || null) // an only one is not marked
}

/** Nothing if its server cannot be asked. */
async function lazyOf(
  { id, serverAlive }: DeviceInfo,
  open: Api['UblkDevice']['open'],
): Promise<LazyProgress | null> {
  if (!serverAlive || !isLazy(id)) return null
  return await open(id)
    .then(async device => (await device.lazyProgress()) ?? null)
    .catch(() => null)
}

/** Nothing if its server cannot be asked. */
async function connectionOf(
  { id, serverAlive }: DeviceInfo,
  open: Api['UblkDevice']['open'],
): Promise<ServerConnection | null> {
  if (!serverAlive || !hasNbd(id)) return null
  return await open(id)
    .then(async device => (await device.connection()) ?? null)
    .catch(() => null)
}

/** Nothing if its server cannot be asked. */
async function volumeOf(
  { id, serverAlive }: DeviceInfo,
  open: Api['UblkDevice']['open'],
): Promise<StoredVolume | null> {
  if (!serverAlive || !hasVolume(id)) return null
  return await open(id)
    .then(async device => (await device.volume()) ?? null)
    .catch(() => null)
}

/** None if its server cannot be asked. */
async function layersOf(
  { id, serverAlive }: DeviceInfo,
  open: Api['UblkDevice']['open'],
): Promise<DiskLayer[]> {
  if (!serverAlive || !isOverlay(id)) return []
  return await open(id)
    .then(async device => await device.layers())
    .catch(() => [])
}

type Copying = 'flattening' | 'committing' | 'moving'

/** Null if its server cannot be asked. */
async function progressOf(
  { id, serverAlive }: DeviceInfo,
  name: Copying,
  open: Api['UblkDevice']['open'],
): Promise<FlattenProgress | null> {
  if (!serverAlive || (name !== 'moving' && !isOverlay(id))) return null
  return await open(id)
    .then(async device => (await device[name]()) ?? null)
    .catch(() => null)
}

function percent({ done, size }: FlattenProgress): string {
  return `${Math.floor((done / Math.max(size, 1)) * 100)}%`
}

/** A line for each layer. */
function drawLayers(layers: readonly DiskLayer[]): string[] {
  const line = ({ path, bytes, written }: DiskLayer): string => {
    const size = path === null ? '' : ` (${formatSize(bytes)}${written ? '' : ', a snapshot'})`
    return `${path ?? 'in memory'}${size}`
  }
  return layers.map(line)
}

async function commandOf({ pid }: DeviceInfo): Promise<string | null> {
  if (pid === 0) return null
  const words = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')
  return words.replaceAll('\0', ' ').trim() || null
}

async function toRow(device: DeviceInfo, sights: Sights): Promise<DeviceRow> {
  const found = readRecord(device.id)
  const record = found.state === 'served' || found.state === 'dead' ? found.record : undefined
  const { log = null, choice = null } = record ?? {}
  const name = (record ? nameIn(record.options) : nameOfDevice(device.id)) ?? null
  return { ...device, ...sights, ...(await diskOf(record?.options.backend)), name, log, choice }
}

/** A disk's backend, from its record. */
async function diskOf(
  backend: Json | undefined,
): Promise<Pick<DeviceRow, 'backend' | 'source' | 'stack' | 'tree'>> {
  if (backend === undefined) return { backend: null, source: null, stack: null, tree: [] }
  const { drawStack, nodesOf, summaryOf } = await import('../backends/stack.js') // All kinds of backends are loaded with it.
  const stack = nodesOf(backend).length > 1 ? backend : null
  const { kind } = (backend ?? {}) as { kind?: unknown }
  return {
    backend: typeof kind === 'string' ? kind : null,
    source: summaryOf(backend) || null,
    stack,
    tree: drawStack(stack),
  }
}
