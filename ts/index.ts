export {
  type Backend,
  type FileBackend,
  type FileOptions,
  file,
  type MemoryBackend,
  memory,
  type NullBackend,
  nullDisk,
} from './backends.js'
export { type CreateOptions, type EndOptions, UblkDevice } from './device.js'
export { UblkError, type UblkErrorDetails, type UblkErrorKind } from './errors.js'
export type { DeviceExit, UblkDeviceEvents } from './events.js'
export { type Feature, features } from './features.js'
export type { DeviceInfo, DeviceState, OpCounters, QueueStats } from './info.js'
export type { DeviceOptions } from './options.js'
export type { Size } from './size.js'
