//! Serves one queue of an overlay.

use super::Overlay;
use super::index::Layer;
use super::layers::{FIRST, Kept};
use super::nothing::NoEngine;
use super::queues::{Era, Seat};
use crate::backend::parts::Parts;
use crate::backend::{Below, Completer, Completion, Engine, Io, Key, PerCall, Piece, Site, Step};
use crate::error;
use crate::queue::{Errno, Flags, Op, Outcome};
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// A call waits for one note or save at a time.
const KEY: Key = 0;

/// More files than a disk has layers: some are not free at once when it has fewer.
const SPARE: u16 = 24;

/// The most operations of a request that the ring has room for: more only take more system calls.
const OPERATIONS: u16 = 4;

/// How a call is served.
#[derive(Debug, Clone, Copy, Default)]
enum Phase {
    /// By one of the disks, whose answer is the call's.
    Passed(Layer),
    /// By several, in parts.
    Split(Parts),
    /// By a layer, which changes a range of the disk.
    Change(Change),
    /// By the note of what was written, which is written for all calls of the turn at once; the call has this outcome then.
    Note(Change, Outcome),
    /// By a layer, which makes durable what was written.
    Flush(Layer),
    /// By a save; the call has this outcome then.
    Save(Outcome),
    /// Not yet: the disk is held.
    Held(Piece),
    #[default]
    Idle,
}

#[derive(Debug, Clone, Copy)]
struct Change {
    layer: Layer,
    era: Era,
    offset: u64,
    length: u64,
    /// It has to be durable before it is answered.
    durable: bool,
}

/// A disk below, and where the first byte of the overlay is in it.
struct Placed {
    disk: Below,
    start: u64,
}

impl Placed {
    /// A piece in its coordinates.
    #[inline]
    fn piece(&self, piece: Piece) -> Piece {
        piece.to(self.start + piece.offset)
    }
}

pub struct OverlayEngine {
    overlay: Arc<Overlay>,
    seat: Arc<Seat>,
    /// By the number of their layer, from the base on.
    layers: Vec<Placed>,
    depth: u16,
    durable: bool,
    completer: Completer,
    phases: PerCall<Phase>,
    /// What was written in this turn, and is not noted yet: to the layer that is written, and to the one below it.
    written: [Vec<Range<u64>>; 2],
    /// What became of this turn's notes.
    noted: [Result<(), Errno>; 2],
}

impl OverlayEngine {
    pub fn new(overlay: Arc<Overlay>, site: &mut Site) -> error::Result<Self> {
        let mut layers = vec![Placed { disk: site.below(overlay.base.clone())?, start: 0 }];
        for layer in overlay.layers.all() {
            layers.push(Placed { disk: site.below(layer.disk.clone())?, start: layer.start });
        }
        if overlay.layers.written().kept.as_ref().is_some_and(|kept| kept.upper.place().writable) {
            // A snapshot adds one, and those of layers that are not needed are used again.
            site.spare_files(SPARE);
        }
        overlay.report_to(&site.reporter());
        if !site.is_of_reader() {
            overlay.max_io.store(site.max_io(), Relaxed);
        }
        site.operations(OPERATIONS);
        let seat = overlay.queues.join(site.completer());
        overlay.job.go_on();
        let (depth, durable, completer) = (site.depth(), site.durable(), site.completer());
        Ok(Self {
            overlay,
            seat,
            layers,
            depth,
            durable,
            completer,
            phases: PerCall::new(depth),
            written: Default::default(),
            noted: [Ok(()); 2],
        })
    }

    /// A layer, or the base, also one that came since the engine was made.
    #[inline]
    fn layer(&mut self, number: Layer) -> Option<&mut Placed> {
        if usize::from(number) >= self.layers.len() {
            self.add_layers(number);
        }
        self.layers.get_mut(usize::from(number))
    }

    #[cold]
    fn add_layers(&mut self, last: Layer) {
        for number in (FIRST..=last).skip(self.layers.len() - 1) {
            let layer = self.overlay.layers.of(number);
            let engine: Box<dyn Engine> = match (&layer.kept, self.seat.slot(number)) {
                (Some(kept), Some(slot)) => kept.file.clone().engine_at(slot, self.depth, self.durable),
                // It came and went, and is not read any more.
                _ => Box::new(NoEngine),
            };
            self.layers.push(Placed { disk: Below::added(engine, number.into()), start: layer.start });
        }
    }

    /// Passes a piece on to a layer.
    #[inline]
    fn pass(&mut self, io: &mut Io<'_>, number: Layer, piece: Piece) -> Step {
        match self.layer(number) {
            Some(layer) => layer.disk.pass(io, layer.piece(piece)),
            None => Step::Done(Err(libc::EIO)),
        }
    }

    #[inline]
    fn pass_on(&mut self, io: &mut Io<'_>, number: Layer, completion: Completion) -> Step {
        match self.layers.get_mut(usize::from(number)) {
            Some(layer) => layer.disk.pass_on(io, completion),
            None => Step::Done(Err(libc::EIO)),
        }
    }

    fn kept(&self, layer: Layer) -> Option<&Kept> {
        self.overlay.layers.of(layer).kept.as_ref()
    }

    fn read(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        let (layer, run) = self.find(piece.offset, piece.length);
        if run == piece.length {
            *self.phases.of(io) = Phase::Passed(layer);
            return self.pass(io, layer, piece);
        }
        let (mut parts, mut done, mut next) = (Parts::new(piece.length), 0, (layer, run));
        while done < piece.length {
            let (layer, run) = next;
            parts.started(match self.layer(layer) {
                Some(layer) => layer.disk.start(io, 0, layer.piece(piece.part(done, run))),
                None => Step::Done(Err(libc::EIO)),
            });
            done += run;
            next = self.find(piece.offset + done, piece.length - done);
        }
        *self.phases.of(io) = Phase::Split(parts);
        parts.step()
    }

    /// The layer that has the first byte of a range, and how many bytes from there on it has.
    #[inline]
    fn find(&self, offset: u64, length: u64) -> (Layer, u64) {
        let (layer, mut run) = self.overlay.find(offset, length);
        // Beyond the base, what was written is in the same layer as what was not.
        while layer > 0 && run < length {
            let (next, more) = self.overlay.find(offset + run, length - run);
            if next != layer {
                break;
            }
            run += more;
        }
        (layer, run)
    }

    fn change(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        let Piece { offset, length, .. } = piece;
        let durable = piece.op != Op::Discard && (self.durable || piece.flags.has(Flags::FUA));
        // A snapshot has this change or not, whichever it is here.
        let layer = self.overlay.layers.top();
        let change = Change { layer, era: self.seat.changes(layer), offset, length, durable };
        *self.phases.of(io) = Phase::Change(change);
        let step = self.pass(io, layer, piece);
        self.changed(io, change, step)
    }

    /// The layer has gone on with a change.
    fn changed(&mut self, io: &mut Io<'_>, change: Change, step: Step) -> Step {
        let Step::Done(outcome) = step else { return step };
        let Change { layer, offset, length, durable, .. } = change;
        if let (Err(errno), true, Some(kept)) = (outcome, durable, self.kept(layer)) {
            kept.sync_failed(errno);
        }
        let range = offset..offset + length;
        if outcome.is_err() || self.overlay.index.has(range.clone(), layer) {
            return self.noted(io, change, outcome);
        }
        // Others read the range from the layer as soon as it is marked.
        if let Err(errno) = io.finish_moves() {
            return self.noted(io, change, Err(errno));
        }
        if self.kept(layer).is_none() {
            self.overlay.index.mark(range, layer);
            return self.noted(io, change, outcome);
        }
        self.written[usize::from(layer % 2)].push(range);
        *self.phases.of(io) = Phase::Note(change, outcome);
        io.go_on_later(KEY);
        Step::Pending
    }

    /// All else that the turn brought is done: what was written to a layer is noted by the first of its calls.
    fn note(&mut self, io: &mut Io<'_>, change: Change, outcome: Outcome) -> Step {
        let which = usize::from(change.layer % 2);
        let (written, noted) = (&mut self.written[which], &mut self.noted[which]);
        if !written.is_empty() {
            *noted = self.overlay.mark(written, change.layer);
            written.clear();
        }
        let outcome = noted.and(outcome);
        self.noted(io, change, outcome)
    }

    /// What a change wrote counts, until the power fails; or it has failed.
    fn noted(&mut self, io: &mut Io<'_>, change: Change, outcome: Outcome) -> Step {
        self.seat.changed(change.layer, change.era);
        match self.kept(change.layer) {
            // What is noted counts after a power failure only when it is saved.
            Some(kept) if outcome.is_ok() && change.durable && kept.upper.unsaved() => {
                self.save(io, change.layer..=change.layer, outcome)
            }
            _ => Step::Done(outcome),
        }
    }

    fn flush(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        let unsealed = self.overlay.layers.unsealed();
        let (first, last) = (*unsealed.start(), *unsealed.end());
        // Soon after a snapshot, what was answered may be in two files.
        if first < last || self.kept(last).is_some_and(Kept::needs_save) {
            return self.save(io, unsealed, Ok(0));
        }
        *self.phases.of(io) = Phase::Flush(last);
        let step = self.pass(io, last, piece);
        self.flushed(step, last)
    }

    fn flushed(&self, step: Step, layer: Layer) -> Step {
        if let (Step::Done(Err(errno)), Some(kept)) = (step, self.kept(layer)) {
            kept.sync_failed(errno);
        }
        step
    }

    /// Answers the call when everything that was written to these layers and noted until now is durable.
    fn save(&mut self, io: &mut Io<'_>, layers: RangeInclusive<Layer>, outcome: Outcome) -> Step {
        *self.phases.of(io) = Phase::Save(outcome);
        let (completer, token) = (self.completer.clone(), io.token(KEY));
        let saved = Box::new(move |saved: Result<(), _>| {
            completer.complete(token, saved.map_or_else(|errno: i32| -errno, |()| 0));
        });
        self.overlay.save_then(layers, saved);
        Step::Pending
    }

    fn begin(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        let step = self.serve(io, piece);
        if step == Step::Pending {
            self.seat.waits();
        }
        step
    }

    fn serve(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
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

    fn go_on(&mut self, io: &mut Io<'_>, completion: Completion) -> Step {
        match *self.phases.of(io) {
            Phase::Passed(layer) => self.pass_on(io, layer, completion),
            Phase::Split(mut parts) => {
                let layer = Below::of(io, &completion).and_then(|layer| self.layers.get_mut(layer));
                if let Some(part) = layer.and_then(|layer| layer.disk.resume(io, completion)) {
                    parts.resumed(part.step);
                    *self.phases.of(io) = Phase::Split(parts);
                }
                parts.step()
            }
            Phase::Change(change) => {
                let step = self.pass_on(io, change.layer, completion);
                self.changed(io, change, step)
            }
            Phase::Note(change, outcome) => self.note(io, change, outcome),
            Phase::Flush(layer) => {
                let step = self.pass_on(io, layer, completion);
                self.flushed(step, layer)
            }
            Phase::Save(outcome) => {
                Step::Done(if completion.result < 0 { Err(-completion.result) } else { outcome })
            }
            Phase::Held(_) | Phase::Idle => Step::Done(Err(libc::EIO)),
        }
    }
}

impl Engine for OverlayEngine {
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        if self.overlay.queues.holds() {
            *self.phases.of(io) = Phase::Held(piece);
            if self.overlay.queues.keep_waiting(&self.seat, &piece, io.token(KEY)) {
                return Step::Pending;
            }
        }
        self.begin(io, piece)
    }

    fn resume(&mut self, io: &mut Io<'_>, completion: Completion) -> Step {
        if let Phase::Held(piece) = *self.phases.of(io) {
            return self.start(io, piece);
        }
        let step = self.go_on(io, completion);
        if step != Step::Pending {
            self.seat.answered();
        }
        step
    }
}

impl Drop for OverlayEngine {
    fn drop(&mut self) {
        if self.overlay.queues.leave(&self.seat) {
            self.overlay.job.stop();
        }
    }
}
