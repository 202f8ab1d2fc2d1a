//! A disk whose changes are reported to an observer: after they were made, and before their requests are answered.

use super::{
    Backend, Below, Changes, Commit, Completion, Engine, Extent, FlattenProgress, Io, LayerInfo, PerCall,
    Piece, Properties, SideInfo, Site, Step,
};
use crate::claim::Place;
use crate::error::Result;
use crate::queue::{CopyMode, Flags, Op};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// A range of the disk that was changed with success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// How: a write, discard or write-zeroes.
    pub op: Op,
    /// What the kernel said of it.
    pub flags: Flags,
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

    fn copy_modes(&self) -> Vec<CopyMode> {
        self.inner.copy_modes()
    }

    fn takes_scattered(&self) -> bool {
        self.inner.takes_scattered()
    }

    fn places(&self) -> Vec<Place<'_>> {
        self.inner.places()
    }

    fn extents(&self, part: Range<u64>) -> Vec<Extent<'_>> {
        self.inner.extents(part)
    }

    fn is_in_files(&self) -> bool {
        self.inner.is_in_files()
    }

    fn identity(&self) -> Result<String> {
        self.inner.identity()
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
        let inner = site.below(self.inner.clone())?;
        let changes = PerCall::new(site.depth());
        Ok(Box::new(ObservedEngine { inner, observer: self.observer.clone(), changes }))
    }

    fn snapshot(self: Arc<Self>, name: &str, now: &dyn Fn()) -> Result<()> {
        self.inner.clone().snapshot(name, now)
    }

    fn reset(&self) -> Result<()> {
        self.inner.reset()?;
        let length = self.properties().size;
        (self.observer)(Change { op: Op::Write, flags: Flags::NONE, offset: 0, length });
        Ok(())
    }

    fn flatten(self: Arc<Self>, rate: Option<u64>, given_up: &dyn Fn() -> bool) -> Result<()> {
        self.inner.clone().flatten(rate, given_up)
    }

    fn flattening(&self) -> Option<FlattenProgress> {
        self.inner.flattening()
    }

    fn commit(self: Arc<Self>, how: &Commit<'_>) -> Result<()> {
        self.inner.clone().commit(how)
    }

    fn committing(&self) -> Option<FlattenProgress> {
        self.inner.committing()
    }

    fn resync(&self, rate: Option<u64>, given_up: &dyn Fn() -> bool) -> Result<()> {
        self.inner.resync(rate, given_up)
    }

    fn resyncing(&self) -> Option<FlattenProgress> {
        self.inner.resyncing()
    }

    fn sides(&self) -> Vec<SideInfo> {
        self.inner.sides()
    }

    fn layers(&self) -> Vec<LayerInfo> {
        self.inner.layers()
    }

    fn written_shares(&self, cell: u64) -> Option<Vec<u8>> {
        self.inner.written_shares(cell)
    }

    fn resize(&self, from: u64, to: u64) -> Result<()> {
        self.inner.resize(from, to)
    }

    fn resize_told(&self, from: u64, to: u64, tell: &dyn Fn(u64) -> Result<()>) -> Result<()> {
        self.inner.resize_told(from, to, tell)
    }

    fn interrupt(&self, patience: Duration) -> Result<()> {
        self.inner.interrupt(patience)
    }

    fn let_go(&self) {
        self.inner.let_go();
    }

    fn take_back(&self, size: u64) -> Result<()> {
        self.inner.take_back(size)
    }

    fn check_claimed(&self) -> Result<()> {
        self.inner.check_claimed()
    }

    fn changes(&self) -> Option<&dyn Changes> {
        self.inner.changes()
    }

    fn close(&self) -> Result<()> {
        self.inner.close()
    }
}

struct ObservedEngine {
    inner: Below,
    observer: Observer,
    changes: PerCall<Option<Change>>,
}

impl ObservedEngine {
    fn tell(&mut self, io: &mut Io<'_>, step: Step) -> Step {
        if let (Step::Done(Ok(_)), Some(change)) = (step, *self.changes.of(io)) {
            if let Err(errno) = io.finish_shared_moves() {
                return Step::Done(Err(errno));
            }
            (self.observer)(change);
        }
        step
    }
}

impl Engine for ObservedEngine {
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        let Piece { op, flags, offset, length, .. } = piece;
        let changes = matches!(op, Op::Write | Op::Discard | Op::WriteZeroes);
        *self.changes.of(io) = changes.then_some(Change { op, flags, offset, length });
        let step = self.inner.pass(io, piece);
        self.tell(io, step)
    }

    fn resume(&mut self, io: &mut Io<'_>, completion: Completion) -> Step {
        let step = self.inner.pass_on(io, completion);
        self.tell(io, step)
    }
}
