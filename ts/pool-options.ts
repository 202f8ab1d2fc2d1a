import type { NativeBackend } from './backends/list.js'
import { kindOf } from './backends/list.js'
import { type BaseBackend, type OverlayOptions, overlay } from './backends/overlay.js'
import { checkFunction, checkOptions, checkSignal, type Names } from './check.js'
import { checkDiskName } from './disk-name.js'
import { invalid, wrongNumber } from './errors.js'
import type { CreateOptions, DeviceOptions } from './options/device-options.js'
import { checkRecord } from './options/record.js'
import { OPTIONS } from './options/table.js'
import { checkValues } from './options/value.js'
import type { Observe } from './runtime/observer.js'
import { nameOf } from './user-values.js'

/** The most spare disks of a pool. */
const MOST_SPARES = 1024

/** The options of a device that each disk of a pool has of its own, or none has. */
const NOT_OF_A_POOL = ['backend', 'observe', 'id', 'name', 'share', 'requestTimeout', 'stuckTimeout'] as const

/** The options that all disks of a pool have: the kernel takes most of them only before a disk is started. */
export type PoolDeviceOptions = Omit<DeviceOptions, (typeof NOT_OF_A_POOL)[number]>

/** The options of a {@link DiskPool}: how many spare disks it keeps, and those of all its disks. */
export interface DiskPoolOptions extends PoolDeviceOptions {
  /** How many started disks are kept: 1 to 1024. Each is a device, with an id and its queues, and is empty until it is taken. */
  spare: number
  /**
   * The base of overlays, or a function that returns it: {@link DiskPool.take} takes the options of an {@link overlay} then.
   *
   * @defaultValue none: `take` takes a backend
   */
  base?: BaseBackend | (() => BaseBackend)
  /**
   * The default of {@link CreateOptions.record} for disks that are taken.
   *
   * @defaultValue false
   */
  record?: boolean
}

/** What a disk is to be that is taken from a {@link DiskPool}. */
export interface TakeOptions extends OverlayOptions {
  /**
   * What stores its bytes: a native backend. Its properties have to fit those with which the pool's disks were started.
   *
   * @defaultValue an overlay over the base of the pool, with the options `upper`, `snapshot` and `size`
   */
  backend?: Pick<NativeBackend, 'kind'>
  /** As {@link CreateOptions.observe}. */
  observe?: Observe
  /** As {@link CreateOptions.name}. */
  name?: string
  /** As {@link CreateOptions.record}. */
  record?: CreateOptions['record']
  /** Aborts it. The disk stays in the pool, or is deleted. */
  signal?: AbortSignal
}

const shared = Object.keys(OPTIONS).filter(
  name => !OPTIONS[name]?.call && !(NOT_OF_A_POOL as readonly string[]).includes(name),
)

/** @throws UblkError of kind `invalid`. */
export function checkPool(options: unknown): asserts options is DiskPoolOptions {
  const names = [...shared, 'spare', 'base', 'record']
  const all = Object.fromEntries(names.map(name => [name, true])) as Names<DiskPoolOptions>
  checkOptions<DiskPoolOptions>(options, 'new DiskPool()', all)
  const { spare, base } = options
  if (!Number.isInteger(spare) || spare < 1 || spare > MOST_SPARES) {
    throw wrongNumber(`spare must be a whole number from 1 to ${MOST_SPARES}, not ${nameOf(spare)}`, spare)
  }
  if (base !== undefined && typeof base !== 'function') overlay(base)
  checkValues(options)
}

/**
 * The options of a disk that is taken.
 *
 * @throws UblkError of kind `invalid`.
 */
export function taken(pool: DiskPoolOptions, options: TakeOptions): CreateOptions {
  checkOptions<TakeOptions>(options, 'take()', {
    backend: true,
    upper: true,
    snapshot: true,
    size: true,
    observe: true,
    name: true,
    record: true,
    signal: true,
  })
  const { backend, upper, snapshot, size, observe, name, record, signal } = options
  if (observe !== undefined) checkFunction(observe, 'observe')
  if (name !== undefined) checkDiskName(name)
  checkRecord(record)
  checkSignal(signal)
  const { base, spare: _, record: byDefault, ...device } = pool
  const its = {
    ...device,
    record: record ?? byDefault ?? false,
    ...(observe && { observe }),
    ...(name !== undefined && { name }),
    ...(signal && { signal }),
  }
  const ofOverlay = [upper, snapshot, size].some(option => option !== undefined)
  if (backend !== undefined) {
    if (ofOverlay)
      throw invalid('take() takes a backend, or the options of an overlay over the base of the pool')
    if (!kindOf(backend)?.native) {
      throw invalid(
        'a disk of a pool has a native backend',
        'UblkDevice.create() also takes disks written in JavaScript',
      )
    }
    return { ...its, backend }
  }
  if (base === undefined) {
    throw invalid(
      'take() needs a backend',
      "such as overlay(file('base.img'), { upper: 'vm1.cow' }), or create the pool with a base",
    )
  }
  return { ...its, backend: overlay(typeof base === 'function' ? base() : base, { upper, snapshot, size }) }
}
