//! A disk whose changes are told to somebody, after they were made and before its users hear of it.

use super::{Alignment, Backend, Engine, Properties, Site, Step};
use crate::claim::Place;
use crate::error::Result;
use crate::queue::{CopyMode, Io, Op, Ticket};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// A range of the disk that was changed with success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// How: a write, discard or write-zeroes.
    pub op: Op,
    /// From where on, in bytes.
    pub offset: u64,
    /// How much, in bytes.
    pub length: u64,
}

/// Takes changes, on the queues' threads. It must not block.
pub type Observer = Arc<dyn Fn(Change) + Send + Sync>;

/// See the [module](self).
pub struct Observed {
    inner: Arc<dyn Backend>,
    observer: Observer,
}

impl Observed {
    /// The same disk as `inner`.
    pub fn new(inner: Arc<dyn Backend>, observer: Observer) -> Self {
        Self { inner, observer }
    }
}

impl Backend for Observed {
    fn properties(&self) -> Properties {
        self.inner.properties()
    }

    fn copy_modes(&self) -> &'static [CopyMode] {
        self.inner.copy_modes()
    }

    fn alignment(&self) -> Alignment {
        self.inner.alignment()
    }

    fn files(&self) -> Vec<BorrowedFd<'_>> {
        self.inner.files()
    }

    fn places(&self) -> Vec<Place<'_>> {
        self.inner.places()
    }

    fn engine(&self, site: &Site) -> Result<Box<dyn Engine + '_>> {
        Ok(Box::new(ObservedEngine { inner: self.inner.engine(site)?, observer: &self.observer }))
    }

    fn resize(&self, from: u64, to: u64) -> Result<()> {
        self.inner.resize(from, to)
    }

    fn close(&self) -> Result<()> {
        self.inner.close()
    }
}

struct ObservedEngine<'a> {
    inner: Box<dyn Engine + 'a>,
    observer: &'a Observer,
}

impl ObservedEngine<'_> {
    fn tell(&self, io: &Io<'_>, step: Result<Step>) -> Result<Step> {
        let what = io.request.what;
        if let Ok(Step::Done(Ok(_))) = step
            && matches!(what.op, Op::Write | Op::Discard | Op::WriteZeroes)
        {
            (self.observer)(Change { op: what.op, offset: what.offset, length: what.length });
        }
        step
    }
}

impl Engine for ObservedEngine<'_> {
    fn start(&mut self, io: &mut Io<'_>) -> Result<Step> {
        let step = self.inner.start(io);
        self.tell(io, step)
    }

    fn resume(&mut self, io: &mut Io<'_>, result: i32) -> Result<Step> {
        let step = self.inner.resume(io, result);
        self.tell(io, step)
    }

    fn ready(&mut self) -> Option<(Ticket, i32)> {
        self.inner.ready()
    }
}
