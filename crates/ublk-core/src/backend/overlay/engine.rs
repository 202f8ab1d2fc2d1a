//! Serves one queue of an overlay.

use super::{Kept, Overlay, UPPER};
use crate::backend::parts::Parts;
use crate::backend::{Below, Completer, Completion, Engine, Io, Key, PerCall, Piece, Site, Step};
use crate::error;
use crate::queue::{Errno, Flags, Op, Outcome};
use std::ops::Range;
use std::sync::Arc;

/// A call waits for one note or save at a time.
const KEY: Key = 0;

/// The most operations of a request that the ring has room for: more only take more system calls.
const OPERATIONS: u16 = 4;

/// How a call is served.
#[derive(Debug, Clone, Copy, Default)]
enum Phase {
    /// By one of the disks, whose answer is the call's.
    Passed(usize),
    /// By several, in parts.
    Split(Parts),
    /// By the upper, which changes a range of the disk.
    Change(Change),
    /// By the note of what was written, which is written for all calls of the turn at once; the call has this outcome then.
    Note(Change, Outcome),
    /// By the upper, which makes durable what was written.
    Flush,
    /// By a save; the call has this outcome then.
    Save(Outcome),
    #[default]
    Idle,
}

#[derive(Debug, Clone, Copy)]
struct Change {
    offset: u64,
    length: u64,
    /// It has to be durable before it is answered.
    durable: bool,
}

pub struct OverlayEngine {
    overlay: Arc<Overlay>,
    /// By the number of their layer.
    layers: Vec<Below>,
    durable: bool,
    completer: Completer,
    phases: PerCall<Phase>,
    /// What was written in this turn, and is not noted yet.
    written: Vec<Range<u64>>,
    /// What became of this turn's notes.
    noted: Result<(), Errno>,
}

impl OverlayEngine {
    pub fn new(overlay: Arc<Overlay>, site: &mut Site) -> error::Result<Self> {
        let disks = [&overlay.base, &overlay.upper];
        let layers = disks.into_iter().map(|disk| site.below(disk.clone())).collect::<error::Result<_>>()?;
        site.operations(OPERATIONS);
        let (durable, completer, phases) = (site.durable(), site.completer(), PerCall::new(site.depth()));
        let (written, noted) = (Vec::with_capacity(site.depth().into()), Ok(()));
        Ok(Self { overlay, layers, durable, completer, phases, written, noted })
    }

    fn read(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        let (layer, run) = self.find(piece.offset, piece.length);
        if run == piece.length {
            *self.phases.of(io) = Phase::Passed(layer);
            return self.layers[layer].pass(io, self.overlay.in_layer(layer, piece));
        }
        let (mut parts, mut done, mut next) = (Parts::new(piece.length), 0, (layer, run));
        while done < piece.length {
            let (layer, run) = next;
            let part = self.overlay.in_layer(layer, piece.part(done, run));
            parts.started(self.layers[layer].start(io, 0, part));
            done += run;
            next = self.find(piece.offset + done, piece.length - done);
        }
        *self.phases.of(io) = Phase::Split(parts);
        parts.step()
    }

    /// The layer that has the first byte of a range, and how many bytes from there on it has.
    #[inline]
    fn find(&self, offset: u64, length: u64) -> (usize, u64) {
        let (layer, mut run) = self.overlay.find(offset, length);
        // Beyond the base, what was written is in the same layer as what was not.
        while layer == UPPER && run < length {
            let (next, more) = self.overlay.find(offset + run, length - run);
            if next != layer {
                break;
            }
            run += more;
        }
        (layer.into(), run)
    }

    fn change(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        let Piece { offset, length, .. } = piece;
        let durable = piece.op != Op::Discard && (self.durable || piece.flags.has(Flags::FUA));
        let (change, upper) = (Change { offset, length, durable }, usize::from(UPPER));
        *self.phases.of(io) = Phase::Change(change);
        let step = self.layers[upper].pass(io, self.overlay.in_layer(upper, piece));
        self.changed(io, change, step)
    }

    /// The upper has gone on with a change.
    fn changed(&mut self, io: &mut Io<'_>, change: Change, step: Step) -> Step {
        let Change { offset, length, durable } = change;
        let outcome = match step {
            Step::Pending => return step,
            Step::Done(Err(errno)) => {
                if let (true, Some(kept)) = (durable, &self.overlay.kept) {
                    kept.sync_failed(errno);
                }
                return step;
            }
            Step::Done(outcome) => outcome,
        };
        let range = offset..offset + length;
        if self.overlay.index.has(range.clone(), UPPER) {
            return self.noted(io, durable, outcome);
        }
        // Others read the range from the upper as soon as it is marked.
        if let Err(errno) = io.finish_moves() {
            return Step::Done(Err(errno));
        }
        if self.overlay.kept.is_none() {
            self.overlay.index.mark(range, UPPER);
            return step;
        }
        self.written.push(range);
        *self.phases.of(io) = Phase::Note(change, outcome);
        io.go_on_later(KEY);
        Step::Pending
    }

    /// All else that the turn brought is done: what was written is noted by the first of its calls.
    fn note(&mut self, io: &mut Io<'_>, durable: bool, outcome: Outcome) -> Step {
        if !self.written.is_empty() {
            self.noted = self.overlay.mark(&self.written);
            self.written.clear();
        }
        match self.noted {
            Ok(()) => self.noted(io, durable, outcome),
            Err(errno) => Step::Done(Err(errno)),
        }
    }

    /// What a change wrote counts, until the power fails.
    fn noted(&mut self, io: &mut Io<'_>, durable: bool, outcome: Outcome) -> Step {
        match &self.overlay.kept {
            // What is noted counts after a power failure only when it is saved.
            Some(kept) if durable && kept.upper.unsaved() => self.save(io, outcome),
            _ => Step::Done(outcome),
        }
    }

    fn flush(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        if self.overlay.kept.as_ref().is_some_and(Kept::needs_save) {
            return self.save(io, Ok(0));
        }
        *self.phases.of(io) = Phase::Flush;
        let step = self.layers[usize::from(UPPER)].pass(io, piece);
        self.flushed(step)
    }

    fn flushed(&self, step: Step) -> Step {
        if let (Step::Done(Err(errno)), Some(kept)) = (step, &self.overlay.kept) {
            kept.sync_failed(errno);
        }
        step
    }

    /// Answers the call when everything that was written and noted until now is durable.
    fn save(&mut self, io: &mut Io<'_>, outcome: Outcome) -> Step {
        let Some(kept) = &self.overlay.kept else { return Step::Done(outcome) };
        *self.phases.of(io) = Phase::Save(outcome);
        let (completer, token) = (self.completer.clone(), io.token(KEY));
        kept.upper.save_then(Box::new(move |saved| {
            completer.complete(token, saved.map_or_else(|errno| -errno, |()| 0));
        }));
        Step::Pending
    }
}

impl Engine for OverlayEngine {
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        if !piece.is_within(self.overlay.size()) {
            return Step::Done(Err(libc::EIO));
        }
        match piece.op {
            Op::Read => self.read(io, piece),
            Op::Write | Op::WriteZeroes | Op::Discard => self.change(io, piece),
            Op::Flush => self.flush(io, piece),
            Op::Other(_) => Step::Done(Err(libc::EOPNOTSUPP)),
        }
    }

    fn resume(&mut self, io: &mut Io<'_>, completion: Completion) -> Step {
        let upper = usize::from(UPPER);
        match *self.phases.of(io) {
            Phase::Passed(layer) => self.layers[layer].pass_on(io, completion),
            Phase::Split(mut parts) => {
                let layer = Below::of(io, &completion).and_then(|layer| self.layers.get_mut(layer));
                if let Some(part) = layer.and_then(|layer| layer.resume(io, completion)) {
                    parts.resumed(part.step);
                    *self.phases.of(io) = Phase::Split(parts);
                }
                parts.step()
            }
            Phase::Change(change) => {
                let step = self.layers[upper].pass_on(io, completion);
                self.changed(io, change, step)
            }
            Phase::Note(change, outcome) => self.note(io, change.durable, outcome),
            Phase::Flush => {
                let step = self.layers[upper].pass_on(io, completion);
                self.flushed(step)
            }
            Phase::Save(outcome) => {
                Step::Done(if completion.result < 0 { Err(-completion.result) } else { outcome })
            }
            Phase::Idle => Step::Done(Err(libc::EIO)),
        }
    }
}
