//! Serves one queue of a mirrored disk.

use super::intents::Intents;
use super::sides::{Mask, Sides, Status};
use crate::backend::overlay::queues::{Era, Seat};
use crate::backend::{Below, Completer, Completion, Engine, Io, Key, PerCall, Piece, Step};
use crate::queue::{Errno, Flags, Op};
use crate::report::Reporter;
use std::sync::Arc;

/// A call waits until its range is free, or a side is given up.
const WAITED: Key = 0;

/// So many reads of a side may fail before it is given up.
const READ_ERRORS: u32 = 16;

/// How a call is served.
#[derive(Debug, Clone, Copy)]
enum Call {
    /// By one side, which got it whole. `era`: of a change.
    Passed {
        side: usize,
        era: Option<Era>,
    },
    /// It is asked for again later.
    Waits(Piece),
    Reads(Read),
    Changes(Change),
    /// It is done, but a side that has failed is not given up yet.
    Withheld {
        done: u32,
        failed: Mask,
    },
}

impl Default for Call {
    fn default() -> Self {
        Self::Passed { side: 0, era: None }
    }
}

#[derive(Debug, Clone, Copy)]
struct Read {
    piece: Piece,
    tried: Mask,
}

/// A change, or a flush, of several sides.
#[derive(Debug, Clone, Copy)]
struct Change {
    piece: Piece,
    era: Option<Era>,
    waiting: u32,
    done: Mask,
    failed: Mask,
    errno: Errno,
    /// That of the side that has to succeed.
    first: Errno,
}

/// See the [module](self).
pub struct MirrorEngine {
    sides: Vec<Below>,
    shared: Arc<Sides>,
    seat: Arc<Seat>,
    completer: Completer,
    reporter: Reporter,
    /// What is written down before a change begins.
    intents: Option<Arc<Intents>>,
    durable: bool,
    calls: PerCall<Call>,
    /// How many calls each side has got whole.
    passed: Vec<u32>,
    /// How many other calls there are.
    others: u32,
    read_errors: Vec<u32>,
}

impl MirrorEngine {
    pub fn new(
        sides: Vec<Below>,
        shared: Arc<Sides>,
        completer: Completer,
        reporter: Reporter,
        intents: Option<Arc<Intents>>,
        durable: bool,
        depth: u16,
    ) -> Self {
        let seat = shared.queues.join(completer.clone());
        shared.begin();
        let number = sides.len();
        Self {
            sides,
            shared,
            seat,
            completer,
            reporter,
            intents,
            durable,
            calls: PerCall::new(depth),
            passed: vec![0; number],
            others: 0,
            read_errors: vec![0; number],
        }
    }

    /// Its first side was the engine of the queue until now, and has these requests in flight.
    #[must_use]
    pub fn after(mut self, in_flight: &[u16]) -> Self {
        for tag in in_flight {
            // What each of them does is not known: all are waited for as changes are.
            let era = Some(self.seat.changes(0));
            self.calls.set(*tag, Call::Passed { side: 0, era });
            self.passed[0] += 1;
        }
        self
    }

    fn pass(&mut self, io: &mut Io<'_>, side: usize, piece: Piece, era: Option<Era>) -> Step {
        self.passed[side] += 1;
        *self.calls.of(io) = Call::Passed { side, era };
        let step = self.sides[side].pass(io, piece);
        self.passed(io, side, era, step)
    }

    fn passed(&mut self, io: &mut Io<'_>, side: usize, era: Option<Era>, step: Step) -> Step {
        let Step::Done(outcome) = step else { return step };
        self.passed[side] -= 1;
        let Some(era) = era else { return step };
        // From here on whoever copies this part reads what was written.
        let moved = io.finish_moves();
        self.seat.changed(0, era);
        Step::Done(outcome.and_then(|done| moved.map(|()| done)))
    }

    fn read(&mut self, io: &mut Io<'_>, piece: Piece, tried: Mask) -> Step {
        let equal = self.shared.equal() & !tried;
        if let (Some(first), 0) = (self.shared.first(), tried) {
            return self.pass(io, first, piece, None);
        }
        let Some(side) = choose(equal, piece.offset / self.shared.part) else {
            return Step::Done(Err(libc::EIO));
        };
        if tried == 0 && equal & (equal - 1) == 0 {
            return self.pass(io, side, piece, None);
        }
        self.others += 1;
        *self.calls.of(io) = Call::Reads(Read { piece, tried: tried | 1 << side });
        let step = self.sides[side].start(io, index(side), piece);
        self.have_read(io, side, step)
    }

    fn have_read(&mut self, io: &mut Io<'_>, side: usize, step: Step) -> Step {
        let Step::Done(outcome) = step else { return step };
        self.others -= 1;
        let Call::Reads(Read { piece, tried }) = *self.calls.of(io) else { return step };
        let Err(errno) = outcome else { return Step::Done(outcome) };
        if self.shared.equal() & !tried == 0 || io.lent() {
            return step;
        }
        self.read_errors[side] += 1;
        if self.read_errors[side] == 1 {
            let why = std::io::Error::from_raw_os_error(errno);
            self.reporter
                .report(format!("side {} of the mirror cannot read: {why}; another one is read", side + 1));
        }
        if self.read_errors[side] == READ_ERRORS && self.shared.first().is_none() {
            self.shared.failed(side, errno);
        }
        self.read(io, piece, tried)
    }

    fn change(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        let range = piece.offset..piece.offset + piece.length;
        if self.shared.queues.holds() && self.shared.queues.keep_waiting(&self.seat, &piece, io.token(WAITED))
        {
            return self.waits(io, piece);
        }
        let era = self.seat.changes(0);
        if let Some(intents) = &self.intents
            && !intents.covers(&range)
        {
            self.seat.changed(0, era);
            intents.note(&range, self.completer.clone(), io.token(WAITED));
            return self.waits(io, piece);
        }
        let targets = self.shared.targets(&range);
        self.ask(io, piece, targets, Some(era))
    }

    fn waits(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        self.others += 1;
        *self.calls.of(io) = Call::Waits(piece);
        Step::Pending
    }

    /// Asks these sides for a change or a flush.
    fn ask(&mut self, io: &mut Io<'_>, piece: Piece, targets: Mask, era: Option<Era>) -> Step {
        if let (1, Some(side)) = (targets.count_ones(), choose(targets, 0)) {
            return self.pass(io, side, piece, era);
        }
        self.others += 1;
        let mut change = Change { piece, era, waiting: 0, done: 0, failed: 0, errno: libc::EIO, first: 0 };
        *self.calls.of(io) = Call::Changes(change);
        for side in 0..self.sides.len() {
            if targets & 1 << side == 0 {
                continue;
            }
            // What it gets is made durable before it counts as equal.
            let lazy = !self.durable && self.shared.status(side) == Status::Filling;
            let flags = if lazy { piece.flags.without(Flags::FUA) } else { piece.flags };
            let step = self.sides[side].start(io, index(side), Piece { flags, ..piece });
            self.part(&mut change, side, step, true);
        }
        *self.calls.of(io) = Call::Changes(change);
        self.settle(io, change)
    }

    fn part(&self, change: &mut Change, side: usize, step: Step, started: bool) {
        match step {
            Step::Pending => change.waiting += u32::from(started),
            Step::Done(outcome) => {
                change.waiting -= u32::from(!started);
                match outcome {
                    Ok(_) => change.done |= 1 << side,
                    Err(errno) => {
                        (change.failed, change.errno) = (change.failed | 1 << side, errno);
                        if self.shared.first() == Some(side) {
                            change.first = errno;
                        }
                    }
                }
            }
        }
    }

    /// Answers a change that all sides have answered.
    fn settle(&mut self, io: &mut Io<'_>, change: Change) -> Step {
        let Change { piece, era, waiting, done, failed, errno, first } = change;
        if waiting > 0 {
            return Step::Pending;
        }
        self.others -= 1;
        let moved = io.finish_moves();
        if let Some(era) = era {
            self.seat.changed(0, era);
        }
        let none = done & self.shared.equal() == 0; // of those that have all
        if first != 0 || none || moved.is_err() {
            if !matches!(errno, libc::EOPNOTSUPP | libc::EINVAL) || done != 0 {
                self.differs(&piece, done | failed);
            }
            return Step::Done(Err(if first != 0 { first } else { moved.err().unwrap_or(errno) }));
        }
        for side in (0..self.sides.len()).filter(|side| failed & 1 << side != 0) {
            match self.shared.status(side) {
                Status::Off => {}
                Status::Filling => {
                    self.shared.failed(side, errno);
                    self.shared.give_up(side);
                }
                Status::Equal => self.shared.failed(side, errno),
            }
        }
        if failed != 0 && self.shared.withhold(failed, &self.completer, io.token(WAITED)) {
            self.others += 1;
            *self.calls.of(io) = Call::Withheld { done: piece.count(), failed };
            return Step::Pending;
        }
        Step::Done(Ok(piece.count()))
    }

    /// A change has failed as a whole: its sides may have different data there, which no client can rely on. Still, the disk has
    /// one content.
    fn differs(&self, piece: &Piece, targets: Mask) {
        if !is_change(piece.op) {
            return;
        }
        let keeps = self.shared.first().or_else(|| choose(targets & self.shared.equal(), 0));
        for side in (0..self.sides.len()).filter(|side| targets & 1 << side != 0 && Some(*side) != keeps) {
            match self.shared.status(side) {
                Status::Filling => self
                    .shared
                    .side(side)
                    .dirty
                    .set_all(self.shared.parts_of(&(piece.offset..piece.offset + piece.length))),
                Status::Equal => self.shared.failed(side, libc::EIO),
                Status::Off => {}
            }
        }
    }
}

fn is_change(op: Op) -> bool {
    matches!(op, Op::Write | Op::Discard | Op::WriteZeroes)
}

#[expect(clippy::cast_possible_truncation, reason = "there are at most eight")]
fn index(side: usize) -> u32 {
    side as u32
}

/// One of some sides; another one for other numbers.
fn choose(sides: Mask, number: u64) -> Option<usize> {
    let count = u64::from(sides.count_ones());
    let wanted = number.checked_rem(count)?;
    (0..8).filter(|side| sides & 1 << side != 0).nth(usize::try_from(wanted).unwrap_or(0))
}

impl Engine for MirrorEngine {
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        if let Some(side) = self.shared.alone() {
            return self.pass(io, side, piece, None);
        }
        if !piece.is_within(self.shared.size) {
            return Step::Done(Err(libc::EIO));
        }
        match piece.op {
            Op::Read => self.read(io, piece, 0),
            Op::Flush => self.ask(io, piece, self.shared.equal(), None),
            op if is_change(op) => self.change(io, piece),
            _ => Step::Done(Err(libc::EOPNOTSUPP)),
        }
    }

    fn resume(&mut self, io: &mut Io<'_>, completion: Completion) -> Step {
        match *self.calls.of(io) {
            Call::Passed { side, era } => {
                let step = self.sides[side].pass_on(io, completion);
                self.passed(io, side, era, step)
            }
            Call::Waits(piece) => {
                self.others -= 1;
                if completion.result < 0 {
                    return Step::Done(Err(-completion.result));
                }
                self.start(io, piece)
            }
            Call::Withheld { done, failed } => {
                if self.shared.withhold(failed, &self.completer, io.token(WAITED)) {
                    return Step::Pending;
                }
                self.others -= 1;
                Step::Done(Ok(done))
            }
            Call::Reads(_) => match self.part_of(io, completion) {
                Some((side, step)) => self.have_read(io, side, step),
                None => Step::Pending,
            },
            Call::Changes(mut change) => {
                if let Some((side, step)) = self.part_of(io, completion) {
                    self.part(&mut change, side, step, false);
                    *self.calls.of(io) = Call::Changes(change);
                }
                self.settle(io, change)
            }
        }
    }

    fn successor(&mut self) -> Option<Box<dyn Engine>> {
        let alone = self.shared.alone()?;
        let busy = self.passed.iter().enumerate().any(|(side, calls)| side != alone && *calls > 0);
        if busy || self.others > 0 || alone >= self.sides.len() {
            return None;
        }
        Some(self.sides.swap_remove(alone).into_engine())
    }
}

impl MirrorEngine {
    fn part_of(&mut self, io: &mut Io<'_>, completion: Completion) -> Option<(usize, Step)> {
        let side = Below::of(io, &completion)?;
        let part = self.sides.get_mut(side)?.resume(io, completion)?;
        Some((side, part.step))
    }
}

impl Drop for MirrorEngine {
    fn drop(&mut self) {
        if self.shared.queues.leave(&self.seat) {
            self.shared.end();
        }
    }
}
