//! Serves one queue of a recorded disk.

use super::content_map::{ContentMap, Origin};
use super::log::Change;
use super::turn::{FULL, Turn};
use super::{Recorder, is_off};
use crate::backend::parts::Parts;
use crate::backend::{Below, Completion, Engine, Io, Key, PerCall, Piece, Site, Step};
use crate::error::Result;
use crate::queue::{Errno, Flags, Held, Op, Outcome};
use crate::request::count_of;
use std::sync::{Arc, PoisonError, RwLock};

/// The disks below: one has what was there before, the other the data of the log.
pub struct Sources {
    base: Below,
    data: Below,
    /// Of each call that is served in parts.
    parts: PerCall<Parts>,
}

impl Sources {
    pub fn new(base: Below, data: Below, depth: u16) -> Self {
        Self { base, data, parts: PerCall::new(depth) }
    }

    /// Reads a piece from where the disk has it. `find`: as [`ContentMap::find`].
    pub fn read(
        &mut self,
        io: &mut Io<'_>,
        piece: Piece,
        mut find: impl FnMut(u64, u64) -> (Origin, u64),
    ) -> Step {
        let (mut parts, mut done) = (Parts::new(piece.length), 0);
        while done < piece.length {
            let (place, run) = find(piece.offset + done, piece.length - done);
            let part = piece.part(done, run);
            parts.started(match place.offset() {
                Some(offset) => self.data.start(io, 0, part.to(offset)),
                None if place == Origin::BASE => self.base.start(io, 0, part),
                None => Step::Done(io.zero(&part).map(|()| part.count())),
            });
            done += run;
        }
        *self.parts.of(io) = parts;
        parts.step()
    }

    pub fn resume(&mut self, io: &mut Io<'_>, completion: Completion) -> Step {
        let mut parts = *self.parts.of(io);
        let below = match Below::of(io, &completion) {
            Some(0) => self.base.resume(io, completion),
            Some(1) => self.data.resume(io, completion),
            _ => None,
        };
        if let Some(part) = below {
            parts.resumed(part.step);
            *self.parts.of(io) = parts;
        }
        parts.step()
    }
}

/// A call waits for one thing at a time.
const KEY: Key = 0;

/// How a call is served.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// How often the power was switched before: what is read after that is not answered.
    Read { switched: u64 },
    /// By the log's data, at the place of the change.
    Write(Change),
    /// Its change waits for the end of the turn, to be logged with the others.
    Logging { number: u64, length: u64 },
}

impl Default for Phase {
    fn default() -> Self {
        Self::Read { switched: 0 }
    }
}

pub struct RecorderEngine {
    recorder: Arc<Recorder>,
    sources: Sources,
    phases: PerCall<Phase>,
    /// The device has no write cache: what is answered is durable.
    durable: bool,
    turn: Turn,
    /// The log's data gets the data of all changes of a turn together.
    together: bool,
}

impl RecorderEngine {
    pub fn new(recorder: Arc<Recorder>, site: &mut Site) -> Result<Self> {
        let base = site.below(recorder.base.clone())?;
        let data = site.below(recorder.data.clone())?;
        Ok(Self {
            sources: Sources::new(base, data, site.depth()),
            phases: PerCall::new(site.depth()),
            durable: site.durable(),
            turn: Turn::new(site.depth()),
            together: recorder.data.file_in_memory().is_some(),
            recorder,
        })
    }

    /// What a read has found is the disk's content only if the power was on all the time.
    fn read(&self, switched: u64, step: Step) -> Step {
        match step {
            Step::Done(_) if self.recorder.switched() != switched => Step::Done(Err(libc::EIO)),
            step => step,
        }
    }

    fn write(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        if self.together {
            let held = match io.hold(&piece) {
                Ok(held) => held,
                Err(errno) => return Step::Done(Err(errno)),
            };
            // Its place follows at the end of the turn.
            let change = self.recorder.begin(self.change(&piece, Origin::ZERO), false);
            return self.log_later(io, change, Some(held));
        }
        let Some(offset) = self.recorder.allocate(piece.length) else {
            io.report(FULL);
            return Step::Done(Err(libc::ENOSPC));
        };
        let step = self.sources.data.pass(io, piece.to(offset));
        let change = self.change(&piece, Origin::data(offset));
        match step {
            Step::Pending => {
                *self.phases.of(io) = Phase::Write(self.recorder.begin(change, false));
                Step::Pending
            }
            Step::Done(outcome) => match written(io, &change, outcome) {
                Ok(()) => {
                    let change = self.recorder.begin(change, true);
                    self.log_later(io, change, None)
                }
                Err(errno) => Step::Done(Err(errno)),
            },
        }
    }

    /// A change that is not started yet.
    fn change(&self, piece: &Piece, place: Origin) -> Change {
        let flags = if self.durable { piece.flags | Flags::FUA } else { piece.flags };
        let (offset, end) = (piece.offset, piece.offset + piece.length);
        Change { offset, end, op: piece.op, flags, place, start: 0 }
    }

    fn go_on_writing(&mut self, io: &mut Io<'_>, change: Change, completion: Completion) -> Step {
        let Step::Done(outcome) = self.sources.data.pass_on(io, completion) else { return Step::Pending };
        match written(io, &change, outcome) {
            Ok(()) => {
                self.recorder.is_whole(&change);
                self.log_later(io, change, None)
            }
            Err(errno) => {
                self.recorder.failed(&change);
                Step::Done(Err(errno))
            }
        }
    }

    fn log_later(&mut self, io: &mut Io<'_>, change: Change, data: Option<Held>) -> Step {
        let (number, length) = (self.turn.add(change, data), change.length());
        *self.phases.of(io) = Phase::Logging { number, length };
        io.go_on_later(KEY);
        Step::Pending
    }
}

/// The data of a change is complete in the log's data, where others read it from now on; or it failed.
fn written(io: &mut Io<'_>, change: &Change, outcome: Outcome) -> std::result::Result<(), Errno> {
    if u64::from(outcome?) == change.length() { io.finish_moves() } else { Err(libc::EIO) }
}

impl Engine for RecorderEngine {
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        let switched = self.recorder.switched();
        if !piece.is_within(self.recorder.size) || is_off(switched) {
            return Step::Done(Err(libc::EIO));
        }
        match piece.op {
            Op::Read => {
                *self.phases.of(io) = Phase::Read { switched };
                let recorder = &self.recorder;
                let find = |offset, length| recorder.state().newest.find(offset, length);
                let step = self.sources.read(io, piece, find);
                self.read(switched, step)
            }
            Op::Write => self.write(io, piece),
            // They have no data.
            Op::Discard | Op::WriteZeroes => {
                let change = self.recorder.begin(self.change(&piece, Origin::ZERO), true);
                self.log_later(io, change, None)
            }
            Op::Flush => Step::Done(self.recorder.flush().map(|()| 0)),
            Op::Other(_) => Step::Done(Err(libc::EOPNOTSUPP)),
        }
    }

    fn resume(&mut self, io: &mut Io<'_>, completion: Completion) -> Step {
        match *self.phases.of(io) {
            Phase::Read { switched } => {
                let step = self.sources.resume(io, completion);
                self.read(switched, step)
            }
            Phase::Write(change) => self.go_on_writing(io, change, completion),
            Phase::Logging { number, length } => {
                let logged = self.turn.end(io, &self.recorder, number);
                Step::Done(logged.map(|()| count_of(length)))
            }
        }
    }
}

/// The places of the sectors of a disk that nobody writes.
pub struct Places(RwLock<Arc<ContentMap>>);

impl Places {
    pub fn new(places: ContentMap) -> Self {
        Self::sharing(Arc::new(places))
    }

    pub fn sharing(places: Arc<ContentMap>) -> Self {
        Self(RwLock::new(places))
    }

    pub fn now(&self) -> Arc<ContentMap> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads find what these say from now on.
    pub fn set(&self, places: Arc<ContentMap>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = places;
    }
}

/// Serves one queue of a disk that nobody writes.
pub struct FixedEngine {
    pub sources: Sources,
    pub places: Arc<Places>,
    pub size: u64,
}

impl Engine for FixedEngine {
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        if !piece.is_within(self.size) || piece.op != Op::Read {
            return Step::Done(Err(libc::EIO));
        }
        let places = self.places.now();
        self.sources.read(io, piece, |offset, length| places.find(offset, length))
    }

    fn resume(&mut self, io: &mut Io<'_>, completion: Completion) -> Step {
        self.sources.resume(io, completion)
    }
}
