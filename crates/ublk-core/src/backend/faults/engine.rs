//! Serves one queue of a disk with faults.

use super::{Decision, Effect, Fate, Faults, Waiting};
use crate::backend::{Below, Completer, Completion, Engine, Io, Key, PerCall, Piece, Site, Step};
use crate::queue::Op;
use crate::request::count_of;
use std::sync::Arc;

/// A call waits for a time, or until the disk is thawed.
const KEY: Key = 0;

/// What has still to be done to a call.
#[derive(Debug, Clone, Copy)]
enum Rest {
    /// It waits, and then this becomes of it.
    Waits(Piece, Option<Fate>),
    /// When the disk below has done something else, the answer is that all bytes were done.
    Claims(u64),
    /// When the disk below has read its data, one bit of it is changed.
    Corrupts(Piece, u64),
}

pub struct FaultsEngine {
    faults: Arc<Faults>,
    number: u64,
    below: Below,
    completer: Completer,
    rests: PerCall<Option<Rest>>,
    /// How many of `rests` there are: mostly none.
    count: usize,
}

impl FaultsEngine {
    pub fn new(faults: Arc<Faults>, number: u64, below: Below, site: &Site) -> Self {
        let (completer, rests) = (site.completer(), PerCall::new(site.depth()));
        Self { faults, number, below, completer, rests, count: 0 }
    }

    fn keep(&mut self, io: &Io<'_>, rest: Rest) {
        if self.rests.of(io).replace(rest).is_none() {
            self.count += 1;
        }
    }

    #[inline]
    fn take(&mut self, io: &Io<'_>) -> Option<Rest> {
        if self.count == 0 {
            return None;
        }
        let rest = self.rests.of(io).take()?;
        self.count -= 1;
        Some(rest)
    }

    fn begin(&mut self, io: &mut Io<'_>, piece: Piece, decision: Decision) -> Step {
        io.faulted(decision.rules);
        let Decision { until: Some(until), fate, .. } = decision else {
            return self.go_on(io, piece, decision.fate);
        };
        match self.faults.delay(until, self.completer.clone(), io.token(KEY)) {
            Waiting::Waits => {
                self.keep(io, Rest::Waits(piece, fate));
                Step::Pending
            }
            _ => self.go_on(io, piece, fate),
        }
    }

    fn go_on(&mut self, io: &mut Io<'_>, piece: Piece, fate: Option<Fate>) -> Step {
        let Some((effect, drawn)) = fate else { return self.below.pass(io, piece) };
        match effect {
            Effect::Fail(errno) => Step::Done(Err(errno)),
            Effect::Full(_) => Step::Done(Err(libc::ENOSPC)),
            Effect::Hang => self.hang(io, piece),
            Effect::Lose => Step::Done(Ok(piece.count())),
            Effect::Misdirect(by) => self.instead(io, piece, piece.to(self.faults.astray(&piece, by))),
            Effect::Tear(bytes) => self.tear(io, piece, bytes),
            Effect::Corrupt => self.corrupt(io, piece, drawn),
            Effect::Delay { .. } | Effect::Rate(_) | Effect::Requests(_) => self.below.pass(io, piece),
        }
    }

    fn hang(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        match self.faults.hang(self.number, self.completer.clone(), io.token(KEY)) {
            Waiting::Waits => {
                self.keep(io, Rest::Waits(piece, None));
                Step::Pending
            }
            Waiting::GoesOn => self.below.pass(io, piece),
            Waiting::Fails => Step::Done(Err(libc::EIO)),
        }
    }

    /// The disk below does something else, and the answer is that the whole piece was done.
    fn instead(&mut self, io: &mut Io<'_>, piece: Piece, other: Piece) -> Step {
        let step = self.below.pass(io, other);
        self.claim(io, step, piece.length)
    }

    fn claim(&mut self, io: &Io<'_>, step: Step, length: u64) -> Step {
        match step {
            Step::Pending => {
                self.keep(io, Rest::Claims(length));
                Step::Pending
            }
            Step::Done(outcome) => Step::Done(outcome.map(|_| count_of(length))),
        }
    }

    fn tear(&mut self, io: &mut Io<'_>, piece: Piece, bytes: u64) -> Step {
        let block = u64::from(self.faults.block_size());
        match bytes / block * block {
            0 => Step::Done(Ok(piece.count())),
            whole => self.instead(io, piece, piece.part(0, whole)),
        }
    }

    fn corrupt(&mut self, io: &mut Io<'_>, piece: Piece, drawn: u64) -> Step {
        if piece.op == Op::Write {
            let length = piece.length;
            return flip(io, &piece, length, drawn)
                .map_or_else(|errno| Step::Done(Err(errno)), |()| self.below.pass(io, piece));
        }
        if let Err(errno) = io.borrow() {
            return Step::Done(Err(errno));
        }
        let step = self.below.pass(io, piece);
        self.corrupt_read(io, step, piece, drawn)
    }

    fn corrupt_read(&mut self, io: &mut Io<'_>, step: Step, piece: Piece, drawn: u64) -> Step {
        match step {
            Step::Pending => self.keep(io, Rest::Corrupts(piece, drawn)),
            Step::Done(Ok(done)) => {
                if let Err(errno) = flip(io, &piece, done.into(), drawn) {
                    return Step::Done(Err(errno));
                }
            }
            Step::Done(Err(_)) => {}
        }
        step
    }
}

/// Changes one bit of the first bytes of a piece's data; if it is scattered, of those in its first place.
fn flip(io: &mut Io<'_>, piece: &Piece, first: u64, drawn: u64) -> Result<(), i32> {
    let segment = piece.segments().next().unwrap_or(*piece);
    let bits = segment.length.min(first) * 8;
    if bits == 0 { Ok(()) } else { io.flip(&segment, drawn % bits) }
}

impl Engine for FaultsEngine {
    #[inline]
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        self.take(io); // of a call whose engine failed
        match self.faults.decide(&piece) {
            None => self.below.pass(io, piece),
            Some(decision) => self.begin(io, piece, decision),
        }
    }

    #[inline]
    fn resume(&mut self, io: &mut Io<'_>, completion: Completion) -> Step {
        match self.take(io) {
            None => self.below.pass_on(io, completion),
            Some(Rest::Waits(..)) if completion.result < 0 => Step::Done(Err(-completion.result)),
            Some(Rest::Waits(piece, fate)) => self.go_on(io, piece, fate),
            Some(Rest::Claims(length)) => {
                let step = self.below.pass_on(io, completion);
                self.claim(io, step, length)
            }
            Some(Rest::Corrupts(piece, drawn)) => {
                let step = self.below.pass_on(io, completion);
                self.corrupt_read(io, step, piece, drawn)
            }
        }
    }
}

impl Drop for FaultsEngine {
    fn drop(&mut self) {
        self.faults.forget(self.number);
    }
}
