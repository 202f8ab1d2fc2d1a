/**
 * Disks from programs: {@link UblkDevice.create} makes one of a backend, such as {@link memory}, {@link file} or {@link worker}.
 *
 * @module ublk-ts
 */
import { setRegistrar } from './registrar.js'

export { type AppliedDiff, applyDiff } from './apply-diff.js'
export { type ConcatBackend, concat } from './backends/concat.js'
export type { ProfileName } from './backends/fault-profiles.js'
export type { FaultDelay, FaultErrno, FaultPlan, FaultRule, FaultTime } from './backends/fault-rules.js'
export { type FaultsBackend, faults } from './backends/faults.js'
export { type FileBackend, type FileOptions, file } from './backends/file.js'
export { type LazyBackend, type LazyOptions, lazy } from './backends/lazy.js'
export type { Backend, NativeBackend, StackableBackend } from './backends/list.js'
export { type MemoryBackend, type MemoryOptions, memory } from './backends/memory.js'
export { type MirrorBackend, type MirrorOptions, mirror } from './backends/mirror.js'
export { type NbdBackend, type NbdOptions, nbd } from './backends/nbd.js'
export { type NullBackend, nullDisk } from './backends/null.js'
export {
  type BaseBackend,
  type OverlayBackend,
  type OverlayOptions,
  overlay,
} from './backends/overlay.js'
export { type PowercutBackend, type PowercutOptions, powercut } from './backends/powercut.js'
export { type Qcow2Backend, type Qcow2Options, qcow2 } from './backends/qcow2.js'
export {
  type QemuBackend,
  type QemuDriver,
  type QemuOptions,
  qemu,
  type RbdOptions,
  rbd,
} from './backends/qemu.js'
export { type S3Backend, type S3Options, s3 } from './backends/s3.js'
export { type SliceBackend, type SliceOptions, slice } from './backends/slice.js'
export { type StripeBackend, type StripeOptions, stripe } from './backends/stripe.js'
export { type TrackedBackend, type TrackedOptions, tracked } from './backends/tracked.js'
export { type WorkerBackend, worker } from './backends/worker.js'
export type { ChangedOptions } from './changes.js'
export type { AutoChoice, CopyMode, ServingChoice, Transport } from './choice.js'
export type { CommitDiskOptions } from './commit-disk.js'
export { type CommitOptions, commitOverlay } from './commit-overlay.js'
export type {
  CrashModel,
  CrashStatesOptions,
  CutEvent,
  CutOptions,
  ExportedLog,
  ExportLogOptions,
} from './crash-options.js'
export type { CrashDiskOptions, CrashReportOptions, CrashState, LostWrite } from './crash-state.js'
export type { CutPredicate, RecordedRequest } from './cut-when.js'
export { UblkDevice } from './device.js'
export type { DiffOptions } from './diff.js'
export type { DiskFaults, FaultCount, FaultReport } from './disk-faults.js'
export { DiskPool, type DiskPoolEvents } from './disk-pool.js'
export { UblkError, type UblkErrorDetails, type UblkErrorKind } from './errors.js'
export type { DeviceExit, ServingEnd, UblkDeviceEvents } from './events.js'
export { autoChoices, type Feature, features } from './features.js'
export type { FlattenOptions } from './flatten.js'
export type { ForkOptions } from './fork.js'
export type {
  ChangedRanges,
  Checkpoint,
  DeviceInfo,
  DeviceState,
  DiskLayer,
  DiskRange,
  DiskTotals,
  FlattenProgress,
  LatencyStats,
  LazyProgress,
  MirrorSide,
  OpCounters,
  QueueStats,
  ServerConnection,
  StoredVolume,
  VolumeSnapshot,
} from './info.js'
export type { Json } from './json.js'
export type {
  EndOptions,
  RecoverOptions,
  ResetOptions,
  ResizeOptions,
} from './lifecycle-options.js'
export type { MoveOptions } from './move.js'
export type { Operation } from './operation.js'
export type { CreateOptions, DeviceOptions } from './options/device-options.js'
export type { RecordOptions } from './options/record.js'
export type { Pages } from './pages.js'
export type { DiskPoolOptions, PoolDeviceOptions, TakeOptions } from './pool-options.js'
export {
  type BackendContext,
  type BackendFactory,
  type Batch,
  type BatchBackend,
  type DiskBackend,
  type DiskRequest,
  defineBackend,
  Flag,
  type JsBackend,
  Op,
} from './runtime/js-backend.js'
export type { Fetch, FetchRange } from './runtime/lazy-fetcher.js'
export type { DiskChange, Observe } from './runtime/observer.js'
export type { RequestLimits } from './runtime/request-limits.js'
export type { RequestFlags } from './runtime/requests.js'
export type { ServedDevice } from './served-device.js'
export type { SharedMemory } from './shared-memory.js'
export type { Size } from './size.js'
export type { TraceListener, TraceRecord } from './trace.js'

// Loaded when a device first asks for a record, so that importing the package loads nothing of the daemon.
setRegistrar(async () => (await import('./daemon/registration.js')).registrar)
