//! Serves one queue of a tracked disk: marks what a request changes, then passes it on.

use super::Hold;
use super::seats::Seat;
use super::session::{Newest, blocks};
use crate::backend::{Below, Completion, Engine, Io, Key, PerCall, Piece, Site, Step};
use crate::queue::Op;
use std::sync::Arc;

/// A change that was begun.
#[derive(Debug, Clone, Copy)]
struct Begun {
    generation: u64,
    epoch: u64,
    offset: u64,
    length: u64,
}

/// For a change that waits until a diff has copied its blocks.
const KEY: Key = 0;

pub struct TrackedEngine {
    // Dropped first: when the session ends, nothing of this queue changes the disk's files any more.
    below: Below,
    begun: PerCall<Option<Begun>>,
    /// Changes that wait for a diff.
    waiting: PerCall<Option<Piece>>,
    /// How many entries of `waiting` there are.
    waits: usize,
    seat: Arc<Seat>,
    /// What was the newest when this engine last looked.
    newest: Newest,
    hold: Arc<Hold>,
}

impl TrackedEngine {
    pub fn new(below: Below, hold: Arc<Hold>, site: &Site) -> Self {
        let (depth, newest, seat) =
            (site.depth(), hold.session.newest(), hold.session.seats.join(site.completer()));
        let (begun, waiting) = (PerCall::new(depth), PerCall::new(depth));
        Self { below, begun, waiting, waits: 0, seat, newest, hold }
    }

    #[inline]
    fn look(&mut self) {
        if self.hold.session.generation() != self.newest.generation {
            self.newest = self.hold.session.newest();
        }
    }

    /// If there is a newer table since the change was begun, its data may have arrived after a checkpoint: it is marked
    /// there, too, before it is answered. This look comes after the data has arrived. So a change that finds no newer table
    /// is complete before the checkpoint's instant.
    #[inline]
    fn settle(&mut self, begun: Begun) {
        if begun.generation != self.hold.session.generation() {
            self.look();
            self.newest.mark(begun.offset, begun.length);
        }
        self.seat.ends(begun.epoch);
    }

    #[inline]
    fn after(&mut self, io: &mut Io<'_>, step: Step) -> Step {
        let Step::Done(outcome) = step else { return step };
        let Some(begun) = self.begun.of(io).take() else { return step };
        let moved = if outcome.is_ok() { io.finish_shared_moves() } else { Ok(()) };
        self.settle(begun); // if it failed, too: a part of it may have been done
        moved.map_or_else(|errno| Step::Done(Err(errno)), |()| step)
    }

    /// A change begins, unless it has to wait for a diff.
    #[inline]
    fn change(&mut self, io: &mut Io<'_>, piece: Piece) -> Option<Step> {
        let Piece { offset, length, .. } = piece;
        if let Some(earlier) = self.begun.of(io).take() {
            self.settle(earlier); // the engine below has failed to end it
        }
        self.look();
        self.newest.mark(offset, length);
        if let Some(diff) = self.newest.taken() {
            let wait = || (self.seat.completer().clone(), io.token(KEY));
            if !diff.admits(&blocks(offset..offset + length), wait) {
                *self.waiting.of(io) = Some(piece);
                self.waits += 1;
                return Some(Step::Pending);
            }
        }
        let Newest { generation, epoch, .. } = self.newest;
        *self.begun.of(io) = Some(Begun { generation, epoch, offset, length });
        self.seat.begins(epoch);
        None
    }

    /// What the current call waits with for a diff. It may be an earlier call's that had the same number.
    #[inline]
    fn take_waiting(&mut self, io: &Io<'_>) -> Option<Piece> {
        if self.waits == 0 {
            return None;
        }
        let piece = self.waiting.of(io).take()?;
        self.waits -= 1;
        Some(piece)
    }
}

impl Engine for TrackedEngine {
    #[inline]
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        self.take_waiting(io);
        if matches!(piece.op, Op::Write | Op::Discard | Op::WriteZeroes)
            && let Some(step) = self.change(io, piece)
        {
            return step;
        }
        let step = self.below.pass(io, piece);
        self.after(io, step)
    }

    #[inline]
    fn resume(&mut self, io: &mut Io<'_>, completion: Completion) -> Step {
        if let Some(piece) = self.take_waiting(io) {
            return self.start(io, piece);
        }
        let step = self.below.pass_on(io, completion);
        self.after(io, step)
    }
}

impl Drop for TrackedEngine {
    fn drop(&mut self) {
        // The queue is left with requests in flight: their data may have arrived.
        let begun: Vec<_> = self.begun.all().flatten().copied().collect();
        begun.into_iter().for_each(|begun| self.settle(begun));
        self.hold.session.seats.leave(&self.seat);
    }
}
