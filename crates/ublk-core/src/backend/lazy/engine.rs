//! Serves one queue of a lazy disk: what is there goes to the storage's own engine at once.

use super::chunks::{Chunks, Claim, Plan, Use, Waiter};
use super::{Inner, Job};
use crate::backend::{Backend, Below, Completer, Completion, Engine, Io, Key, PerCall, Piece, Site, Step};
use crate::error::Result;
use crate::queue::{Flags, Op, Outcome};
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// What a call waits for outside the ring.
const KEY: Key = 0;

/// What a call waits for.
#[derive(Default)]
enum Phase {
    /// The storage's engine, which overwrites these chunks.
    Storage(Claim),
    /// The storage's engine reads chunks that are not saved; the storage has to stay intact from that epoch on.
    Read { epoch: u64 },
    /// To be told so often that chunks were fetched, overwritten or evicted; and what went wrong with one.
    Chunks { left: u32, error: i32 },
    /// The map to be saved; it is finished with this then.
    Save(Outcome),
    /// Nothing else than the storage's engine.
    #[default]
    Idle,
}

/// How often a read is repeated because the storage has lost data meanwhile.
const PATIENCE: u8 = 3;

#[derive(Default)]
struct Progress {
    piece: Option<Piece>,
    phase: Phase,
    /// How often a read may still be repeated.
    patience: u8,
    /// The chunks that it has pinned in a bounded cache.
    pinned: Range<u64>,
}

pub struct LazyEngine {
    inner: Arc<Inner>,
    storage: Below,
    durable: bool,
    completer: Completer,
    progress: PerCall<Progress>,
}

impl LazyEngine {
    pub(super) fn new(inner: Arc<Inner>, site: &mut Site) -> Result<Self> {
        let storage: Arc<dyn Backend> = inner.storage.clone();
        let storage = site.below(storage)?;
        if let Some(room) = &inner.chunks.room {
            let map = &inner.chunks.map;
            room.check_requests(map.chunk(), map.length(), site.max_io())?;
        }
        let (durable, completer, progress) = (site.durable(), site.completer(), PerCall::new(site.depth()));
        Ok(Self { inner, storage, durable, completer, progress })
    }

    fn chunks(&self) -> &Arc<Chunks> {
        &self.inner.chunks
    }

    /// Sends the call to the storage as soon as its chunks are there.
    fn begin(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        // What it waited for is over, or is what a panic left of an earlier call.
        self.set(io, Phase::Idle);
        self.unpin(io);
        let map = &self.chunks().map;
        let usage = match piece.op {
            Op::Read => Use::Read,
            Op::Write | Op::WriteZeroes => Use::Overwrite,
            Op::Discard => Use::Discard,
            Op::Flush if map.failed() => return Step::Done(Err(libc::EIO)),
            Op::Flush if map.unsaved() => return self.save(io, Ok(0)),
            Op::Flush | Op::Other(_) => return self.start_storage(io, piece),
        };
        let touched = self.chunks().touched(piece.offset, piece.length);
        self.pin(io, &touched);
        let map = &self.chunks().map;
        if map.settled_all(touched.clone()) && (usage == Use::Read || map.dirty_all(touched.clone())) {
            return self.start_storage(io, piece);
        }
        if usage == Use::Discard && !map.dirty_all(touched.clone()) {
            // A clean chunk that is discarded would have to stay in the cache as a written one does, or the image's data
            // would show again. A hole is not worth that room.
            self.unpin(io);
            return Step::Done(Ok(0));
        }
        let epoch = self.chunks().epoch();
        if usage == Use::Read && !map.any_lost() && map.has_all(touched) {
            self.set(io, Phase::Read { epoch });
            return self.start_storage(io, piece);
        }
        let plan = self.chunks().plan(piece.offset, piece.length, usage, &self.waiter(io));
        if !matches!(plan, Plan::Go(_)) {
            self.unpin(io);
        }
        match plan {
            Plan::Go(_) if usage == Use::Read => {
                self.set(io, Phase::Read { epoch });
                self.start_storage(io, piece)
            }
            Plan::Go(claim) => {
                self.set(io, Phase::Storage(claim));
                self.start_storage(io, piece)
            }
            Plan::Lost => Step::Done(Err(libc::EIO)),
            Plan::Failed(errno) => Step::Done(Err(errno)),
            Plan::Full => {
                io.report(
                    "the cache is full of written data, which is never evicted: create the disk again with the same \
                     cache and a larger bound",
                );
                Step::Done(Err(libc::ENOSPC))
            }
            Plan::Evict(count) => {
                match self.inner.filler.jobs().send(Job::Evict(count, self.waiter(io))) {
                    Ok(()) => {
                        self.set(io, Phase::Chunks { left: 1, error: 0 });
                        Step::Pending
                    }
                    Err(_) => Step::Done(Err(libc::EIO)), // the disk is closed
                }
            }
            Plan::Wait { times, fetch } => {
                self.set(io, Phase::Chunks { left: times, error: 0 });
                fetch.into_iter().for_each(|range| self.inner.fetch(range, true));
                Step::Pending
            }
        }
    }

    /// Keeps chunks from being evicted; see [`Pins`](super::room::Pins).
    #[inline]
    fn pin(&mut self, io: &Io<'_>, chunks: &Range<u64>) {
        if let Some(room) = &self.inner.chunks.room {
            room.pins.pin(chunks.clone());
            self.progress.of(io).pinned = chunks.clone();
        }
    }

    #[inline]
    fn unpin(&mut self, io: &Io<'_>) {
        if let Some(room) = &self.inner.chunks.room {
            room.pins.unpin(std::mem::take(&mut self.progress.of(io).pinned));
        }
    }

    fn start_storage(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        let step = self.storage.pass(io, piece);
        self.after_storage(io, piece, step)
    }

    fn after_storage(&mut self, io: &mut Io<'_>, piece: Piece, step: Step) -> Step {
        let Step::Done(mut outcome) = step else { return step };
        // Others read a chunk as soon as it counts as overwritten; one that is not pinned may become a hole.
        let moves =
            self.inner.chunks.room.is_some() || matches!(self.progress.of(io).phase, Phase::Storage(_));
        if let (Ok(_), true) = (outcome, moves)
            && let Err(errno) = io.finish_moves()
        {
            outcome = Err(errno);
        }
        self.unpin(io);
        match self.set(io, Phase::Idle) {
            Phase::Storage(claim) if outcome.is_ok() => {
                match claim.fulfil() {
                    Err(error) => outcome = Err(error.raw_os_error().unwrap_or(libc::EIO)),
                    Ok(()) if self.chunks().unwatched() => {
                        let _ = self.inner.filler.jobs().send(Job::Look); // closed: it has saved everything
                    }
                    Ok(()) => {}
                }
            }
            Phase::Read { epoch }
                if outcome.is_ok() && !self.chunks().intact(&*self.inner.storage, epoch) =>
            {
                return self.read_again(io, piece);
            }
            _ => {}
        }
        self.finish(io, piece, outcome)
    }

    /// The storage has completed the call. A durable write may still need a sync.
    fn finish(&mut self, io: &mut Io<'_>, piece: Piece, outcome: Outcome) -> Step {
        let durable =
            (piece.flags.has(Flags::FUA) || self.durable) && matches!(piece.op, Op::Write | Op::WriteZeroes);
        let map = &self.chunks().map;
        match outcome {
            // The kernel reports a failure once, and did so now. A failed write may concern only itself.
            Err(errno) if piece.op == Op::Flush => {
                self.chunks().failed(&io::Error::from_raw_os_error(errno));
            }
            Err(_) if durable => {
                self.chunks().intact(&*self.inner.storage, 0);
            }
            Ok(_)
                if (durable || piece.op == Op::Flush) && !self.chunks().is_durable(&*self.inner.storage) =>
            {
                return Step::Done(Err(libc::EIO));
            }
            // A durable write into a chunk whose bit is not durable in the map would be lost at a power failure.
            Ok(_) if durable && map.unsaved() => return self.save(io, outcome),
            _ => {}
        }
        Step::Done(outcome)
    }

    /// The call may have read wrong data: the storage has lost some.
    fn read_again(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        let patience = &mut self.progress.of(io).patience;
        if *patience == 0 {
            return Step::Done(Err(libc::EIO));
        }
        *patience -= 1;
        self.begin(io, piece)
    }

    /// Finishes the call when the map is saved.
    fn save(&mut self, io: &Io<'_>, outcome: Outcome) -> Step {
        match self.inner.filler.jobs().send(Job::Save(self.waiter(io))) {
            Ok(()) => {
                self.set(io, Phase::Save(outcome));
                Step::Pending
            }
            Err(_) => Step::Done(Err(libc::EIO)), // the disk is closed
        }
    }

    fn waiter(&self, io: &Io<'_>) -> Waiter {
        Waiter::Request { completer: self.completer.clone(), token: io.token(KEY) }
    }

    fn set(&mut self, io: &Io<'_>, phase: Phase) -> Phase {
        std::mem::replace(&mut self.progress.of(io).phase, phase)
    }
}

impl Engine for LazyEngine {
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        let progress = self.progress.of(io);
        (progress.piece, progress.patience) = (Some(piece), PATIENCE);
        self.begin(io, piece)
    }

    fn resume(&mut self, io: &mut Io<'_>, completion: Completion) -> Step {
        let result = completion.result;
        let Progress { piece: Some(piece), phase, .. } = self.progress.of(io) else {
            return Step::Done(Err(libc::EIO));
        };
        let piece = *piece;
        match phase {
            Phase::Storage(_) | Phase::Read { .. } | Phase::Idle => {
                let step = self.storage.pass_on(io, completion);
                self.after_storage(io, piece, step)
            }
            Phase::Chunks { left, error } => {
                *left -= 1;
                *error = if result < 0 { result } else { *error };
                match (*left, *error) {
                    // Some may be missing again: a write that was to overwrite them failed.
                    (0, 0) => self.begin(io, piece),
                    (0, error) => Step::Done(Err(-error)),
                    _ => Step::Pending,
                }
            }
            Phase::Save(outcome) => {
                let outcome = if result < 0 { Err(-result) } else { *outcome };
                self.set(io, Phase::Idle);
                Step::Done(outcome)
            }
        }
    }
}

impl Drop for LazyEngine {
    fn drop(&mut self) {
        if let Some(room) = &self.inner.chunks.room {
            self.progress.all().for_each(|call| room.pins.unpin(call.pinned.clone()));
        }
    }
}
