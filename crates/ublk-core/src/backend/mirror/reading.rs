//! Reads a mirrored disk beside its queues.

use super::sides::Sides;
use crate::backend::{Below, Completion, Engine, Io, PerCall, Piece, Step};
use crate::queue::Op;
use std::sync::Arc;

/// See the [module](self).
pub struct ReadingEngine {
    sides: Vec<Below>,
    shared: Arc<Sides>,
    /// Which side has got the call.
    calls: PerCall<usize>,
}

impl ReadingEngine {
    pub fn new(sides: Vec<Below>, shared: Arc<Sides>, depth: u16) -> Self {
        Self { sides, shared, calls: PerCall::new(depth) }
    }
}

impl Engine for ReadingEngine {
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        let equal = self.shared.equal();
        if piece.op != Op::Read || equal == 0 {
            return Step::Done(Err(libc::EIO));
        }
        let side = equal.trailing_zeros() as usize;
        *self.calls.of(io) = side;
        self.sides[side].pass(io, piece)
    }

    fn resume(&mut self, io: &mut Io<'_>, completion: Completion) -> Step {
        let side = *self.calls.of(io);
        self.sides[side].pass_on(io, completion)
    }
}
