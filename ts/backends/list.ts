import type { JsBackend } from '../runtime/js-backend.js'
import { type ConcatBackend, concatKind } from './concat.js'
import { type CrashStateBackend, crashStateKind } from './crash-state.js'
import { type FaultsBackend, faultsKind } from './faults.js'
import { type FileBackend, fileKind } from './file.js'
import type { Described, Kind } from './kind.js'
import { type LazyBackend, lazyKind } from './lazy.js'
import { type MemoryBackend, memoryKind } from './memory.js'
import { type MirrorBackend, mirrorKind } from './mirror.js'
import { type NbdBackend, nbdKind } from './nbd.js'
import { type NullBackend, nullKind } from './null.js'
import { type OverlayBackend, overlayKind } from './overlay.js'
import { type PowercutBackend, powercutKind } from './powercut.js'
import { type Qcow2Backend, qcow2Kind } from './qcow2.js'
import { type QemuBackend, qemuKind } from './qemu.js'
import { type S3Backend, s3Kind } from './s3.js'
import { type SliceBackend, sliceKind } from './slice.js'
import { type StripeBackend, stripeKind } from './stripe.js'
import { type TrackedBackend, trackedKind } from './tracked.js'
import { type WorkerBackend, workerKind } from './worker.js'

/** All kinds of backends, in the order of the command line's help. */
export const KINDS: readonly Kind[] = [
  memoryKind,
  nullKind,
  fileKind,
  lazyKind,
  qcow2Kind,
  nbdKind,
  qemuKind,
  s3Kind,
  workerKind,
  sliceKind,
  concatKind,
  stripeKind,
  mirrorKind,
  overlayKind,
  faultsKind,
  trackedKind,
  powercutKind,
  crashStateKind,
]

/** A backend that can be a part of others. */
export type StackableBackend =
  | MemoryBackend
  | NullBackend
  | FileBackend
  | Qcow2Backend
  | NbdBackend
  | QemuBackend
  | S3Backend
  | SliceBackend
  | ConcatBackend
  | StripeBackend
  | MirrorBackend
  | OverlayBackend
  | FaultsBackend
  | CrashStateBackend

/** A backend that stores a disk's data natively: the result of {@link memory}, {@link nullDisk}, {@link file}, … */
export type NativeBackend = StackableBackend | LazyBackend | TrackedBackend | PowercutBackend

/**
 * What stores a disk's data: a native backend, a {@link worker}, or an object with the methods of a disk, which is served
 * from the event loop of the thread that creates the device.
 */
// For native backends only the kind is listed: otherwise the compiler would take a disk without `read` for a native
// backend, and report that.
export type Backend = Pick<NativeBackend, 'kind'> | WorkerBackend | JsBackend

/** The kind of a backend; undefined for objects with the methods of a disk. */
export function kindOf(backend: unknown): Kind | undefined {
  const name = (backend as Partial<Described> | null | undefined)?.kind
  return KINDS.find(kind => kind.name === name)
}

/** Whether native threads serve a backend. */
export function isNative(backend: unknown): backend is NativeBackend {
  return kindOf(backend)?.native === true
}
