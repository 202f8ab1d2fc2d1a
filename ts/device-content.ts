import { abortable } from './abort.js'
import type { NativeBackend } from './backends/list.js'
import type { OverlayBackend } from './backends/overlay.js'
import { isScratchFile } from './backends/scratch-file.js'
import { allChanged, type ChangedOptions, changedPart, checkChanged, checkName } from './changes.js'
import { type CommitDiskOptions, checkCommit, watched } from './commit-disk.js'
import { checkExport, checkMark, type ExportedLog, type ExportLogOptions } from './crash-options.js'
import { DeviceHandle } from './device-handle.js'
import { checkDiff, type DiffOptions, writeDiff } from './diff.js'
import { rethrow, UblkError, wrap, wrongType } from './errors.js'
import { checkFlatten, committingOf, type FlattenOptions, flatteningOf } from './flatten.js'
import { type ForkOptions, planFork } from './fork.js'
import type {
  ChangedRanges,
  Checkpoint,
  DeviceInfo,
  DiskLayer,
  FlattenProgress,
  MirrorSide,
  VolumeSnapshot,
} from './info.js'
import { layersOf } from './layers.js'
import { checkReset, type ResetOptions } from './lifecycle-options.js'
import type { LocalDevice } from './local-device.js'
import type { MoveOptions } from './move.js'
import { connect } from './remote/control-client.js'
import { readBackend, upperOf } from './remote/record-file.js'
import { nameOf } from './user-values.js'

/** What a disk holds, and held: its marks and checkpoints, its snapshots and layers. {@link UblkDevice} is this and more. */
export class DeviceContent extends DeviceHandle {
  readonly #local: LocalDevice | undefined

  /** @internal */
  protected constructor(info: DeviceInfo, local: LocalDevice | undefined) {
    super(info, local)
    this.#local = local
  }

  /**
   * Gives the present moment of a {@link powercut} disk a name, whoever serves it: for example, of what a program has promised
   * just now. The states after it have this mark. A {@link ServedDevice} sets it directly; a handle returns a promise, and the
   * mark is set when that resolves.
   *
   * @throws UblkError of kind `unsupported` for another disk; `not-found` if another process serves it and has no record.
   *
   * @example
   * ```ts
   * const disk = await UblkDevice.open(0)
   * await disk.mark('paid 17')
   * ```
   */
  mark(name: string): void | Promise<void> {
    checkMark(name)
    return this.#mark(name)
  }

  async #mark(name: string): Promise<void> {
    if (this.#local) {
      try {
        return this.#local.device.mark(name)
      } catch (error) {
        throw wrap(error)
      }
    }
    using server = await connect(this.id)
    await server.mark(name)
  }

  /**
   * Writes what a {@link powercut} disk has recorded so far to a file, whoever serves it, in the format of dm-log-writes: every
   * write, discard, flush and mark, in the order of their completion. The kernel's `replay-log`, or {@link powercut} with `replay`,
   * reads it. The content that the disk began with is not in it, and neither is what is not answered yet.
   *
   * @param path - Of the file, which must not exist: it appears when it is complete. The server of the disk writes it.
   *
   * @throws UblkError of kind `exists` if there is a file; `invalid` if a mark is longer than 479 bytes, or if the file is on the disk
   * itself; `unsupported` after {@link ServedDevice.restore}, whose content the format cannot hold, and for another disk; `backend` if the file
   * cannot be written; `not-found` if another process serves it and has no record. If `signal` is aborted, its reason. No file is
   * left then.
   *
   * @example
   * ```ts
   * const { entries, bytes } = await disk.exportLog('disk.log')
   * ```
   */
  async exportLog(path: string | URL, options: ExportLogOptions = {}): Promise<ExportedLog> {
    const out = checkExport(path, options)
    const { signal } = options
    const local = this.#local
    if (local) return await abortable(signal, cancel => local.device.exportLog(out, cancel))
    signal?.throwIfAborted()
    using server = await connect(this.id)
    return await server.exportLog(out, signal)
  }

  /**
   * Makes a checkpoint of a {@link tracked} disk, whoever serves it: {@link changed} says what was changed since. It is one
   * instant for all queues. A write that was answered before is older; one that is in flight counts as changed since. Data
   * that a file system has not written to the disk yet is newer: sync it before.
   *
   * Resolves when the checkpoint will survive a power failure.
   *
   * @param name - At most 255 bytes.
   * @throws UblkError: `exists` if there is such a checkpoint, `unsupported` if the disk does not record its changes,
   * `limit` if it has 128 checkpoints, `invalid` for a name that is not possible, or a read-only disk, `closed` if it is not
   * live, `not-found` if nobody can be asked.
   */
  async checkpoint(name: string): Promise<void> {
    checkName(name)
    if (this.#local) return await this.#local.device.checkpoint(name).catch(rethrow)
    using server = await connect(this.id)
    await server.checkpoint(name)
  }

  /**
   * The checkpoints of a {@link tracked} disk, whoever serves it, the oldest first.
   *
   * @throws UblkError: `unsupported` if the disk does not record its changes, `closed` if it is not live, `not-found` if
   * nobody can be asked.
   */
  async checkpoints(): Promise<Checkpoint[]> {
    if (this.#local) return await this.#local.device.checkpoints().catch(rethrow)
    using server = await connect(this.id)
    return await server.checkpoints()
  }

  /**
   * Removes a checkpoint of a {@link tracked} disk, whoever serves it. What was changed since older checkpoints stays known.
   *
   * @throws UblkError: `not-found` if there is no such checkpoint, or nobody can be asked; `unsupported` if the disk does
   * not record its changes, `invalid` if it is read-only, `closed` if it is not live.
   */
  async removeCheckpoint(name: string): Promise<void> {
    checkName(name)
    if (this.#local) return await this.#local.device.removeCheckpoint(name).catch(rethrow)
    using server = await connect(this.id)
    await server.removeCheckpoint(name)
  }

  /**
   * What was changed on a {@link tracked} disk since a checkpoint, whoever serves it: writes, discards and zeroes that were
   * answered before this was called, in blocks of 4 KiB. The disk goes on meanwhile. Space that was added to the disk counts
   * as changed. The snapshots of an {@link overlay} with an upper in a file are its checkpoints, without a change map.
   *
   * @throws UblkError: `not-found` if there is no such checkpoint, or nobody can be asked; `unsupported` if the disk does
   * not record its changes, `closed` if it is not live.
   */
  async changed(options: ChangedOptions): Promise<ChangedRanges> {
    checkChanged(options)
    const { since } = options
    if (this.#local) {
      const { device } = this.#local
      return await allChanged(since, from => changedPart(device, since, from)).catch(rethrow)
    }
    using server = await connect(this.id)
    return await allChanged(since, from => server.changedPart(since, from))
  }

  /**
   * Writes what was changed on a {@link tracked} disk since a checkpoint, or all of it, to a file or a stream: as the disk is
   * at one instant, while it goes on. {@link applyDiff} puts it into a copy of the disk as it was at the checkpoint. Every write
   * that was answered before this was called is in it, and no write that begins after it has resolved. A write to a changed
   * block that is not copied yet waits until it is. Its file is written and synced by the server of the disk. A disk has one
   * diff at a time, and is not resized meanwhile.
   *
   * Of an {@link overlay} with an upper in a file and no change map, it has what was changed from a snapshot to the last one.
   *
   * For a chain of diffs make the next checkpoint before each diff: the next diff is then since that one.
   *
   * @throws UblkError: `not-found` if there is no such checkpoint, or nobody can be asked; `exists` if the file exists;
   * `backend` if it cannot be written; `busy` if another diff is under way; `unsupported` if the disk does not record its
   * changes; `closed` if it is not live, or is no longer served.
   * @throws the signal's reason if it was aborted.
   */
  async diff(options: DiffOptions): Promise<void> {
    const checked = checkDiff(options)
    const { signal } = options
    const local = this.#local
    await writeDiff(checked, async wishes => {
      if (local) return await abortable(signal, cancel => local.device.diff(wishes, cancel))
      using server = await connect(this.id)
      await server.diff(wishes, signal)
    })
  }

  /**
   * Keeps the present content of an overlay's disk, or of one in an object store, under a name, while the disk is in use, in this
   * process or another one. The snapshot is of one instant: what was answered before is in it, and what is started afterwards
   * is not. No request fails, and reads wait for nothing. Of an overlay, the upper keeps its path; the snapshot is the file with `.`
   * and the name behind that. Of a disk in an object store, {@link s3} begins another volume with it, or opens it: no data is
   * copied. It is there once all that it has is in the store.
   *
   * What programs have not written yet is not in it: sync the file system first (sync(1), or fsfreeze(8) for a file system
   * that is clean in the snapshot).
   *
   * If the disk is {@link tracked}, this also makes a {@link checkpoint} of that name, at the same instant: {@link diff} since
   * then, applied to a copy of the snapshot, gives the disk.
   *
   * @param name - Letters, digits, `-`, `_` and `.`.
   * @throws UblkError of kind `unsupported` for a disk that is neither an overlay with an upper in a file nor in an object store, or
   * has 16 layers already; `invalid` for another name; `backend` if the name is taken or the disk is read-only; `exists` if a
   * checkpoint has it, or `limit` if there are 128; `closed` if it is not live; `not-found` if another process serves it and has
   * no record. Nothing has changed then.
   *
   * @example
   * ```ts
   * await disk.snapshot('before-upgrade') // vm1.cow.before-upgrade
   * ```
   */
  async snapshot(name: string): Promise<void> {
    if (typeof name !== 'string') {
      throw wrongType(`the name of a snapshot must be text, not ${nameOf(name)}`, "such as 'before-upgrade'")
    }
    this.#refuseMemory('it has no snapshots')
    if (this.#local) return await this.#local.device.snapshot(name).catch(rethrow)
    using server = await connect(this.id)
    await server.snapshot(name)
  }

  /**
   * The {@link snapshot | snapshots} of a disk in an object store, the oldest first, in whichever process it is served. Those of an
   * overlay are files: see {@link layers}.
   *
   * @throws UblkError: `unsupported` if the disk is not in an object store, `closed` if it is not served, `not-found` if nobody can be
   * asked.
   */
  async snapshots(): Promise<VolumeSnapshot[]> {
    if (this.#local) return await this.#local.device.snapshots().catch(rethrow)
    using server = await connect(this.id)
    return await server.snapshots()
  }

  /**
   * Removes a {@link snapshot} of a disk in an object store, in whichever process that is served. What only it had is given back.
   *
   * @throws UblkError: `busy` if it has clones, `not-found` if there is no such snapshot, or nobody can be asked; `unsupported` if the
   * disk is not in an object store, `backend` if the store fails, `closed` if it is not served.
   */
  async removeSnapshot(name: string): Promise<void> {
    if (typeof name !== 'string') {
      throw wrongType(`the name of a snapshot must be text, not ${nameOf(name)}`, "such as 'before-upgrade'")
    }
    if (this.#local) return await this.#local.device.removeSnapshot(name).catch(rethrow)
    using server = await connect(this.id)
    await server.removeSnapshot(name)
  }

  /**
   * Makes a {@link snapshot} of an overlay's disk while it is in use, whoever serves it, and resolves with the backend of
   * another disk that begins with it. Both disks go on from there, each with an upper of its own.
   *
   * @throws UblkError as {@link snapshot}: of kind `unsupported` for a disk that is no overlay with an upper in a file,
   * `exists` if the new upper exists, `invalid` if it is in another directory, `backend` if the snapshot's name is taken.
   * Nothing has changed then.
   *
   * @example
   * ```ts
   * const other = await UblkDevice.create({ backend: await disk.fork({ upper: 'vm2.cow' }) })
   * ```
   */
  async fork(options: ForkOptions): Promise<OverlayBackend> {
    const { name, backend } = planFork(this.id, this.#local?.backend ?? readBackend(this.id), options)
    await this.snapshot(name)
    return backend
  }

  /** For what needs an upper that stays. */
  #refuseMemory(what: string): void {
    if (!isScratchFile(upperOf(this.id))) return // Otherwise its file goes with the device.
    throw new UblkError('unsupported', `what is written to this disk is in memory: ${what}`, {
      device: this.id,
      hint: 'make the overlay with an upper in a file',
    })
  }

  /**
   * Copies to the upper of an overlay's disk all that it lacks, while the disk is in use, whoever serves it. Afterwards the
   * upper needs neither its base nor its snapshots, and the disk can be made again with `overlay(null, { upper })`.
   *
   * Resolves when that is done. What was copied stays if it is aborted, or the disk is stopped, or its server killed: then
   * the next flatten copies the rest. Until the end nothing else is changed: the base and the snapshots are still needed.
   * A write waits while the part of up to 1 MiB that it writes to is being copied. The space of what the base has as zeroes
   * is not taken up.
   *
   * @throws UblkError of kind `unsupported` for a disk that is no overlay with an upper in a file, or is read-only; `busy`
   * if it is being flattened; `backend` if base, upper or their file systems fail; `closed` if it is stopped meanwhile;
   * `not-found` if another process serves it and has no record. What was copied stays.
   * @throws the signal's reason if it was aborted.
   *
   * @example
   * ```ts
   * await disk.flatten({ rate: '50M' })
   * ```
   */
  async flatten(options: FlattenOptions = {}): Promise<void> {
    const rate = checkFlatten(options)
    this.#refuseMemory('it cannot be flattened')
    const { signal } = options
    const local = this.#local
    if (local) return await abortable(signal, cancel => local.device.flatten(rate, cancel))
    signal?.throwIfAborted()
    using server = await connect(this.id)
    await server.flatten(rate, signal)
  }

  /**
   * How far the {@link flatten} of a disk has come, whoever serves it; undefined if none is under way.
   *
   * @throws UblkError of kind `not-found` if another process serves it and has no record.
   */
  async flattening(): Promise<FlattenProgress | undefined> {
    if (this.#local) return flatteningOf(this.#local.device)
    using server = await connect(this.id)
    return (await server.flattening()) ?? undefined
  }

  /**
   * Puts what was written to an overlay's disk into the image file of its base, while the disk is in use, whoever serves it:
   * its snapshots, and all that was written before the call. Afterwards the disk is over the changed base, and its upper has
   * only what was written since; the layers that the base has are removed. The upper that is written becomes a snapshot of the
   * commit's own for that time.
   *
   * Resolves when the base has all of that durably. If it is aborted, or the disk is stopped, or its server killed, nothing is
   * lost: the disk is served as before, whatever the base has of it, and the next commit does it again. Until then the base
   * is partly the old one, and only of use to this disk. Other uppers over the base are refused from the beginning on.
   *
   * @throws UblkError of kind `unsupported` for a disk that is no overlay with an upper in a file over an image file, or is
   * read-only; `busy` if another disk uses the base, the disk has snapshots and `force` is not given, or something else is done
   * to it; `backend` if base or upper cannot be used, or the disk is larger than its base; `closed` if it is stopped meanwhile;
   * `not-found` if another process serves it and has no record.
   * @throws the signal's reason if it was aborted.
   *
   * @example
   * ```ts
   * await disk.commit({ rate: '50M', onProgress: ({ done, size }) => console.log(done / size) })
   * ```
   */
  async commit(options: CommitDiskOptions = {}): Promise<void> {
    const { rate, force } = checkCommit(options)
    this.#refuseMemory('it cannot be committed')
    const { signal, onProgress } = options
    const local = this.#local
    const look = async (): Promise<FlattenProgress | undefined> => await this.committing()
    if (local) {
      const work = abortable(signal, cancel => local.device.commit(rate, force, cancel))
      return await watched(work, look, onProgress)
    }
    signal?.throwIfAborted()
    using server = await connect(this.id)
    await watched(server.commit(rate, force, signal), look, onProgress)
  }

  /**
   * How far the {@link commit} of a disk has come, whoever serves it; undefined if none is under way.
   *
   * @throws UblkError of kind `not-found` if another process serves it and has no record.
   */
  async committing(): Promise<FlattenProgress | undefined> {
    if (this.#local) return committingOf(this.#local.device)
    using server = await connect(this.id)
    return (await server.committing()) ?? undefined
  }

  /**
   * Brings back the sides of a {@link mirror} that were dropped, while the disk is in use, whoever serves it: what they missed is
   * copied. Resolves when all sides have all. What was copied stays if it is aborted.
   *
   * @throws UblkError of kind `unsupported` for another disk; `backend` if a side
   * fails again; `closed` if it is stopped meanwhile; `not-found` if another process serves it and has no record.
   * @throws the signal's reason if it was aborted.
   *
   * @example
   * ```ts
   * await disk.resync({ rate: '50M' })
   * ```
   */
  async resync(options: FlattenOptions = {}): Promise<void> {
    const rate = checkFlatten(options, 'resync()')
    const { signal } = options
    const local = this.#local
    if (local) return await abortable(signal, cancel => local.device.resync(rate, cancel))
    signal?.throwIfAborted()
    using server = await connect(this.id)
    await server.resync(rate, signal)
  }

  /**
   * How far the {@link resync} of a disk has come, whoever serves it, also one that follows a crash; undefined if none is under way.
   *
   * @throws UblkError of kind `not-found` if another process serves it and has no record.
   */
  async resyncing(): Promise<FlattenProgress | undefined> {
    if (this.#local) return this.#local.device.resyncing() ?? undefined
    using server = await connect(this.id)
    return (await server.resyncing()) ?? undefined
  }

  /**
   * The sides of a {@link mirror}, in their order, whoever serves it. Empty for another disk.
   *
   * @throws UblkError of kind `not-found` if another process serves it and has no record.
   */
  async sides(): Promise<MirrorSide[]> {
    if (this.#local) return this.#local.device.sides()
    using server = await connect(this.id)
    return await server.sides()
  }

  /**
   * Moves a disk to another backend while it is in use, whoever serves it: from memory to a file, from there to an NBD server,
   * and so on. All that the disk has is copied there. When both have the same, the disk becomes the other one, at one instant;
   * from then on `info()`, {@link UblkDevice.recover} and `ublk-ts upgrade` mean that one, and what the disk was before is not
   * written to any more. No request fails. A write waits while the part of up to 1 MiB that it writes to is being copied.
   *
   * If it is aborted or fails, or the server is killed at any moment, the disk is still one of both, whole, with all that was
   * answered: the other one as soon as this resolves, and before, mostly, the old one. A file that was made for it is removed if it
   * fails, and stays if the server is killed.
   *
   * The disk keeps what the kernel knows of it: its size, its block size, its write cache, its copy mode. The other backend must
   * have as many bytes, or more, and be able to do what the disk does. What stood around the old one goes with it: snapshots,
   * recorded changes, rules for faults.
   *
   * @param target - Where to: `file()`, `nbd()`, `memory()`, or what is made of these. A file that does not exist is made. What a
   * block device or an NBD server has is overwritten. Memory of a disk that other servers can take over is in `/dev/shm`.
   * @throws UblkError of kind `invalid` if the target does not fit, `exists` if its file has content; `busy` if it is in use, or the
   * disk is moved already, or another process is about to serve it; `unsupported` for a disk written in JavaScript; `backend` if
   * the target fails; `closed` if the disk is stopped meanwhile; `not-found` if another process serves it and has no record. The
   * disk is as before then.
   * @throws the signal's reason if it was aborted.
   *
   * @example
   * ```ts
   * await disk.move(file('moved.img'), { rate: '50M' })
   * ```
   */
  async move(target: Pick<NativeBackend, 'kind'>, options: MoveOptions = {}): Promise<void> {
    const { checkMove, moveHere } = await import('./move.js').catch(rethrow) // Few programs need it.
    const plan = checkMove(target, options)
    const { signal } = options
    const local = this.#local
    if (local) return await abortable(signal, cancel => moveHere(local, plan, cancel))
    signal?.throwIfAborted()
    using server = await connect(this.id)
    await server.move(plan.recorded(), plan.rate, plan.overwrite, signal)
  }

  /**
   * How far the {@link move} of a disk has come, whoever serves it; undefined if none is under way.
   *
   * @throws UblkError of kind `not-found` if another process serves it and has no record.
   */
  async moving(): Promise<FlattenProgress | undefined> {
    if (this.#local) return this.#local.device.moving() ?? undefined
    using server = await connect(this.id)
    return (await server.moving()) ?? undefined
  }

  /**
   * Throws away what was written to an overlay's disk since its last snapshot, or at all if it has none. The disk stays
   * attached; requests wait meanwhile, and what the kernel has of the disk in its buffers is dropped. After a crash all
   * that was written is there, or nothing.
   *
   * @throws UblkError of kind `unsupported` for a disk that is no overlay, or is read-only; `busy` if the disk is in use,
   * unless `force` is given: a mounted file system does not expect that; `closed` if it is not live; `not-found` if another
   * process serves it and has no record.
   */
  async reset(options: ResetOptions = {}): Promise<void> {
    checkReset(options)
    const { force = false, signal } = options
    const local = this.#local
    if (local) return await abortable(signal, cancel => local.reset(force, cancel))
    signal?.throwIfAborted()
    using server = await connect(this.id)
    await server.reset({ force, signal })
  }

  /**
   * What was written over the base of an overlay, whoever serves it: its snapshots, the oldest first, and the upper. Empty
   * for another disk.
   *
   * @throws UblkError of kind `not-found` if another process serves it and has no record.
   */
  async layers(): Promise<DiskLayer[]> {
    if (this.#local) return layersOf(this.#local.device)
    using server = await connect(this.id)
    return await server.layers()
  }
}
