//! A state as a disk, which is only read. An overlay over it can be written.

use crate::backend::recorder::{ContentMap, FixedEngine, Sources};
use crate::backend::{Backend, Engine, Properties, Site, parts};
use crate::claim::Place;
use crate::error::Result;
use crate::queue::CopyMode;
use std::sync::Arc;

/// See the [module](self).
pub struct View {
    base: Arc<dyn Backend>,
    data: Arc<dyn Backend>,
    places: Arc<ContentMap>,
    /// What is never torn, in bytes.
    unit: u32,
}

impl View {
    /// The content that `places` say, of a recorded disk over `base` with the log's `data`.
    pub fn new(base: Arc<dyn Backend>, data: Arc<dyn Backend>, places: ContentMap, unit: u32) -> Self {
        Self { base, data, places: Arc::new(places), unit }
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

    /// Those of the recorded disk are claimed by that, and nobody else writes to them.
    fn places(&self) -> Vec<Place<'_>> {
        Vec::new()
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
        let (base, data) = (site.below(self.base.clone())?, site.below(self.data.clone())?);
        let (sources, size) = (Sources::new(base, data, site.depth()), self.base.properties().size);
        Ok(Box::new(FixedEngine { sources, places: self.places.clone(), size }))
    }
}
