//! Serves one queue of a tracked disk: marks what a request changes, then passes it on.

use super::Hold;
use super::session::Table;
use crate::backend::{Below, Completion, Engine, Io, PerCall, Piece, Step};
use crate::queue::Op;
use std::sync::Arc;

/// A change that was begun.
#[derive(Debug, Clone, Copy)]
struct Begun {
    generation: u64,
    offset: u64,
    length: u64,
}

pub struct TrackedEngine {
    // Dropped first: when the session ends, nothing of this queue changes the disk's files any more.
    below: Below,
    begun: PerCall<Option<Begun>>,
    /// The table that was the newest when this engine last looked.
    table: Table,
    hold: Arc<Hold>,
}

impl TrackedEngine {
    pub fn new(below: Below, hold: Arc<Hold>, depth: u16) -> Self {
        Self { below, begun: PerCall::new(depth), table: hold.session.newest(), hold }
    }

    /// Marks a range in the newest table.
    #[inline]
    fn mark(&mut self, offset: u64, length: u64) -> u64 {
        if self.hold.session.generation() != self.table.generation {
            self.table = self.hold.session.newest();
        }
        self.table.mark(offset, length);
        self.table.generation
    }

    /// If there is a newer table since the change was begun, its data may have arrived after a checkpoint: it is marked
    /// there, too, before it is answered. This look comes after the data has arrived. So a change that finds no newer table
    /// is complete before the checkpoint's instant.
    #[inline]
    fn settle(&mut self, begun: Begun) {
        if begun.generation != self.hold.session.generation() {
            self.mark(begun.offset, begun.length);
        }
    }

    #[inline]
    fn after(&mut self, io: &mut Io<'_>, step: Step) -> Step {
        let Step::Done(outcome) = step else { return step };
        let Some(begun) = self.begun.of(io).take() else { return step };
        let moved = if outcome.is_ok() { io.finish_shared_moves() } else { Ok(()) };
        self.settle(begun); // if it failed, too: a part of it may have been done
        moved.map_or_else(|errno| Step::Done(Err(errno)), |()| step)
    }
}

impl Engine for TrackedEngine {
    #[inline]
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        if matches!(piece.op, Op::Write | Op::Discard | Op::WriteZeroes) {
            let Piece { offset, length, .. } = piece;
            if let Some(earlier) = self.begun.of(io).take() {
                self.settle(earlier); // the engine below has failed to end it
            }
            let generation = self.mark(offset, length);
            *self.begun.of(io) = Some(Begun { generation, offset, length });
        }
        let step = self.below.pass(io, piece);
        self.after(io, step)
    }

    #[inline]
    fn resume(&mut self, io: &mut Io<'_>, completion: Completion) -> Step {
        let step = self.below.pass_on(io, completion);
        self.after(io, step)
    }
}

impl Drop for TrackedEngine {
    fn drop(&mut self) {
        // The queue is left with requests in flight: their data may have arrived.
        let begun: Vec<_> = self.begun.all().flatten().copied().collect();
        begun.into_iter().for_each(|begun| self.settle(begun));
    }
}
