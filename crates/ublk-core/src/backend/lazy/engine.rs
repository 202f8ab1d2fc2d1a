//! Serves one queue of a lazy disk: what is there goes to the storage's own engine at once.

use super::chunks::{Chunks, Claim, Inbox, Plan, Use, Waiter};
use super::{Fill, Job, Lazy};
use crate::backend::{Engine, Site, Step};
use crate::error::Result;
use crate::queue::{Io, Op, Outcome, Ticket};
use std::sync::Arc;

/// What a request waits for.
enum Phase {
    /// The storage's engine, which overwrites these chunks.
    Storage(Claim),
    /// To be told so often that chunks were fetched or overwritten; and what went wrong with one.
    Chunks { left: u32, error: i32 },
    /// The map to be saved; it is finished with this then.
    Save(Outcome),
    /// Nothing.
    Idle,
}

pub struct LazyEngine<'a> {
    lazy: &'a Lazy,
    storage: Box<dyn Engine + 'a>,
    durable: bool,
    inbox: Arc<Inbox>,
    /// By tag.
    phases: Box<[Phase]>,
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
        let usage = match what.op {
            Op::Read => Use::Read,
            Op::Write | Op::WriteZeroes => Use::Overwrite,
            Op::Discard => Use::Discard,
            Op::Flush if self.chunks().map.unsaved() => return Ok(self.save(io, Ok(0))),
            Op::Flush | Op::Other(_) => return self.start_storage(io),
        };
        if self.chunks().map.has_all(self.chunks().touched(what.offset, what.length)) {
            return self.start_storage(io);
        }
        match self.chunks().plan(what.offset, what.length, usage, &self.waiter(io)) {
            Plan::Go(claim) => {
                self.set(io, Phase::Storage(claim));
                self.start_storage(io)
            }
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
        let Ok(Step::Done(outcome)) = step else {
            if step.is_err() {
                self.set(io, Phase::Idle);
            }
            return step;
        };
        if let Phase::Storage(claim) = self.set(io, Phase::Idle)
            && outcome.is_ok()
        {
            claim.fulfil();
        }
        let what = io.request.what;
        // A durable write into a chunk that the map does not durably have would be lost with the power.
        let durable = (what.fua || self.durable) && matches!(what.op, Op::Write | Op::WriteZeroes);
        if durable && outcome.is_ok() && self.chunks().map.unsaved() {
            return Ok(self.save(io, outcome));
        }
        Ok(Step::Done(outcome))
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
        self.begin(io)
    }

    fn resume(&mut self, io: &mut Io<'_>, result: i32) -> Result<Step> {
        match &mut self.phases[usize::from(io.request.ticket.tag)] {
            Phase::Storage(_) | Phase::Idle => {
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
        self.due.pop()
    }
}
