//! Serves one queue of a lazy disk: what is there goes to the storage's own engine at once.

use super::chunks::{Chunks, Claim, Inbox, Plan, Use, Waiter};
use super::{Fill, Job, Lazy};
use crate::backend::{Engine, Site, Step};
use crate::error::Result;
use crate::queue::{Io, Op, Outcome, Ticket};
use std::io;
use std::sync::Arc;

/// What a request waits for.
enum Phase {
    /// The storage's engine, which overwrites these chunks.
    Storage(Claim),
    /// The storage's engine reads chunks that are not saved; the storage has to stay intact from that epoch on.
    Read { epoch: u64 },
    /// To be told so often that chunks were fetched or overwritten; and what went wrong with one.
    Chunks { left: u32, error: i32 },
    /// The map to be saved; it is finished with this then.
    Save(Outcome),
    /// Nothing.
    Idle,
}

/// How often a read is repeated because the storage has lost data meanwhile.
const PATIENCE: u8 = 3;

pub struct LazyEngine<'a> {
    lazy: &'a Lazy,
    storage: Box<dyn Engine + 'a>,
    durable: bool,
    inbox: Arc<Inbox>,
    /// By tag.
    phases: Box<[Phase]>,
    /// By tag, how often its read may still be repeated.
    patience: Box<[u8]>,
    due: Vec<(Ticket, i32)>,
}

impl<'a> LazyEngine<'a> {
    pub fn new(lazy: &'a Lazy, storage: Box<dyn Engine + 'a>, site: &Site) -> Self {
        Self {
            lazy,
            storage,
            durable: site.durable,
            inbox: Arc::new(Inbox::new(site.waker.clone())),
            phases: (0..site.depth).map(|_| Phase::Idle).collect(),
            patience: vec![PATIENCE; usize::from(site.depth)].into(),
            due: Vec::new(),
        }
    }

    fn chunks(&self) -> &Arc<Chunks> {
        &self.lazy.chunks
    }

    /// Sends the request to the storage as soon as its chunks are there.
    fn begin(&mut self, io: &mut Io<'_>) -> Result<Step> {
        // What it waited for is over, or is what a panic left of an earlier request.
        self.set(io, Phase::Idle);
        let what = io.request.what;
        let map = &self.chunks().map;
        let usage = match what.op {
            Op::Read => Use::Read,
            Op::Write | Op::WriteZeroes => Use::Overwrite,
            Op::Discard => Use::Discard,
            Op::Flush if map.failed() => return Ok(Step::Done(Err(libc::EIO))),
            Op::Flush if map.unsaved() => return Ok(self.save(io, Ok(0))),
            Op::Flush | Op::Other(_) => return self.start_storage(io),
        };
        let touched = self.chunks().touched(what.offset, what.length);
        if map.settled_all(touched.clone()) {
            return self.start_storage(io);
        }
        let epoch = self.chunks().epoch();
        if usage == Use::Read && !map.any_lost() && map.has_all(touched) {
            self.set(io, Phase::Read { epoch });
            return self.start_storage(io);
        }
        match self.chunks().plan(what.offset, what.length, usage, &self.waiter(io)) {
            Plan::Go(_) if usage == Use::Read => {
                self.set(io, Phase::Read { epoch });
                self.start_storage(io)
            }
            Plan::Go(claim) => {
                self.set(io, Phase::Storage(claim));
                self.start_storage(io)
            }
            Plan::Lost => Ok(Step::Done(Err(libc::EIO))),
            Plan::Wait { times, fetch } => {
                self.set(io, Phase::Chunks { left: times, error: 0 });
                for range in fetch {
                    self.lazy.source.fetch(Fill::new(self.chunks(), self.lazy.filler.jobs(), range));
                }
                Ok(Step::Pending)
            }
        }
    }

    fn start_storage(&mut self, io: &mut Io<'_>) -> Result<Step> {
        let step = self.storage.start(io);
        self.after_storage(io, step)
    }

    fn after_storage(&mut self, io: &mut Io<'_>, step: Result<Step>) -> Result<Step> {
        let Ok(Step::Done(mut outcome)) = step else {
            if step.is_err() {
                self.set(io, Phase::Idle);
            }
            return step;
        };
        match self.set(io, Phase::Idle) {
            Phase::Storage(claim) if outcome.is_ok() => {
                match claim.fulfil() {
                    Err(error) => outcome = Err(error.raw_os_error().unwrap_or(libc::EIO)),
                    Ok(()) if self.chunks().unwatched() => {
                        let _ = self.lazy.filler.jobs().send(Job::Look); // closed: it has saved everything
                    }
                    Ok(()) => {}
                }
            }
            Phase::Read { epoch } if outcome.is_ok() && !self.chunks().intact(&*self.lazy.storage, epoch) => {
                return self.read_again(io);
            }
            _ => {}
        }
        self.finish(io, outcome)
    }

    /// The storage has completed the request. A durable write may still need a sync.
    fn finish(&mut self, io: &mut Io<'_>, outcome: Outcome) -> Result<Step> {
        let what = io.request.what;
        let durable = (what.fua || self.durable) && matches!(what.op, Op::Write | Op::WriteZeroes);
        let map = &self.chunks().map;
        match outcome {
            // The kernel reports a failure once, and did so now. A failed write may concern only itself.
            Err(errno) if what.op == Op::Flush => {
                self.chunks().failed(&io::Error::from_raw_os_error(errno));
            }
            Err(_) if durable => {
                self.chunks().intact(&*self.lazy.storage, 0);
            }
            Ok(_) if (durable || what.op == Op::Flush) && map.failed() => {
                return Ok(Step::Done(Err(libc::EIO)));
            }
            // A durable write into a chunk whose bit is not durable in the map would be lost at a power failure.
            Ok(_) if durable && map.unsaved() => return Ok(self.save(io, outcome)),
            _ => {}
        }
        Ok(Step::Done(outcome))
    }

    /// The request may have read wrong data: the storage has lost some.
    fn read_again(&mut self, io: &mut Io<'_>) -> Result<Step> {
        let patience = &mut self.patience[usize::from(io.request.ticket.tag)];
        if *patience == 0 {
            return Ok(Step::Done(Err(libc::EIO)));
        }
        *patience -= 1;
        self.begin(io)
    }

    /// Finishes the request when the map is saved.
    fn save(&mut self, io: &Io<'_>, outcome: Outcome) -> Step {
        match self.lazy.filler.jobs().send(Job::Save(self.waiter(io))) {
            Ok(()) => {
                self.set(io, Phase::Save(outcome));
                Step::Pending
            }
            Err(_) => Step::Done(Err(libc::EIO)), // the disk is closed
        }
    }

    fn waiter(&self, io: &Io<'_>) -> Waiter {
        Waiter { inbox: self.inbox.clone(), ticket: io.request.ticket }
    }

    fn set(&mut self, io: &Io<'_>, phase: Phase) -> Phase {
        std::mem::replace(&mut self.phases[usize::from(io.request.ticket.tag)], phase)
    }
}

impl Engine for LazyEngine<'_> {
    fn start(&mut self, io: &mut Io<'_>) -> Result<Step> {
        self.patience[usize::from(io.request.ticket.tag)] = PATIENCE;
        self.begin(io)
    }

    fn resume(&mut self, io: &mut Io<'_>, result: i32) -> Result<Step> {
        match &mut self.phases[usize::from(io.request.ticket.tag)] {
            Phase::Storage(_) | Phase::Read { .. } | Phase::Idle => {
                let step = self.storage.resume(io, result);
                self.after_storage(io, step)
            }
            Phase::Chunks { left, error } => {
                *left -= 1;
                *error = if result < 0 { result } else { *error };
                match (*left, *error) {
                    // Some may be missing again: a write that was to overwrite them failed.
                    (0, 0) => self.begin(io),
                    (0, error) => Ok(Step::Done(Err(-error))),
                    _ => Ok(Step::Pending),
                }
            }
            Phase::Save(outcome) => {
                let outcome = if result < 0 { Err(-result) } else { *outcome };
                self.set(io, Phase::Idle);
                Ok(Step::Done(outcome))
            }
        }
    }

    fn ready(&mut self) -> Option<(Ticket, i32)> {
        if self.due.is_empty() {
            self.due = self.inbox.take();
        }
        self.due.pop().or_else(|| self.storage.ready())
    }
}
