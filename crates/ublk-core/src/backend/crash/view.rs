//! A state as a disk, which is only read. An overlay over it can be written. It can become another state of the same disk.

use crate::backend::recorder::{ContentMap, FixedEngine, Places, Sources};
use crate::backend::{Backend, Engine, Properties, Site, parts};
use crate::claim::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::queue::CopyMode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// See the [module](self).
pub struct View {
    base: Arc<dyn Backend>,
    data: Arc<dyn Backend>,
    places: Arc<Places>,
    /// What is never torn, in bytes.
    unit: u32,
    /// The recorded disk was closed.
    closed: Arc<AtomicBool>,
}

impl View {
    /// The content that `places` say, of a recorded disk over `base` with the log's `data`, until that disk is `closed`.
    pub fn new(
        base: Arc<dyn Backend>,
        data: Arc<dyn Backend>,
        places: ContentMap,
        unit: u32,
        closed: Arc<AtomicBool>,
    ) -> Self {
        Self { base, data, places: Arc::new(Places::new(places)), unit, closed }
    }

    /// About how many bytes of memory it alone takes up.
    pub fn own_bytes(&self) -> usize {
        size_of::<Self>() + self.places.now().own_bytes()
    }

    /// Another one with the same content, of which each can become another state.
    #[must_use]
    pub fn copy(&self) -> Self {
        let Self { base, data, places, unit, closed } = self;
        let places = Arc::new(Places::sharing(places.now()));
        Self { base: base.clone(), data: data.clone(), places, unit: *unit, closed: closed.clone() }
    }

    /// Has the content of `other` from now on, a state of the same disk.
    pub fn turn_into(&self, other: &Self) {
        self.places.set(other.places.now());
    }

    /// Checks that its disk is still recorded: since it was closed, others may have changed its base.
    pub fn check(&self) -> Result<()> {
        if self.closed.load(SeqCst) {
            return Err(Error::new(ErrorKind::Closed, "the disk of this state was deleted")
                .hint("make the disks of its states before it is deleted"));
        }
        Ok(())
    }
}

impl Backend for View {
    fn properties(&self) -> Properties {
        let Properties { size, block_size, .. } = self.base.properties();
        Properties { block_size, physical_block: self.unit, ..Properties::new(size) }
    }

    fn copy_modes(&self) -> Vec<CopyMode> {
        let modes = parts::copy_modes(&[self.base.clone(), self.data.clone()]);
        modes.into_iter().filter(|mode| *mode != CopyMode::Zero).collect()
    }

    /// Those of the base that are only read. What the base itself writes, such as what a lazy disk has fetched, is claimed by
    /// the recorded disk alone, and so is the log's data.
    fn places(&self) -> Vec<Place<'_>> {
        let places = self.base.places().into_iter().filter(|place| !place.writable);
        places.map(|place| Place { role: place.role.below_overlay(), ..place }).collect()
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
        let (base, data) = (site.below(self.base.clone())?, site.below(self.data.clone())?);
        let (sources, size) = (Sources::new(base, data, site.depth()), self.base.properties().size);
        Ok(Box::new(FixedEngine { sources, places: self.places.clone(), size }))
    }
}
