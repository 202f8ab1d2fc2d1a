//! A disk whose data lives with the threads that take its queues.

use super::{Backend, Engine, Properties, Site};
use crate::claim::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::queue::CopyMode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// See the [module](self).
pub struct External {
    properties: Properties,
    size: AtomicU64,
}

impl External {
    /// How it can be given the data of requests, the best first.
    pub const COPY_MODES: &'static [CopyMode] = &[CopyMode::Copy, CopyMode::User];

    /// A disk that is promised to be so.
    pub fn new(properties: Properties) -> Self {
        Self { properties, size: AtomicU64::new(properties.size) }
    }
}

impl Backend for External {
    fn properties(&self) -> Properties {
        Properties { size: self.size.load(Relaxed), ..self.properties }
    }

    fn copy_modes(&self) -> Vec<CopyMode> {
        Self::COPY_MODES.to_vec()
    }

    fn places(&self) -> Vec<Place<'_>> {
        Vec::new() // the program that serves it manages its own files
    }

    fn is_external(&self) -> bool {
        true
    }

    fn engine(self: Arc<Self>, _site: &mut Site) -> Result<Box<dyn Engine>> {
        Err(Error::new(ErrorKind::Unsupported, "this disk has no native engine: its queues have to be taken"))
    }

    /// The server of the disk has already done this.
    fn resize(&self, _from: u64, to: u64) -> Result<()> {
        self.size.store(to, Relaxed);
        Ok(())
    }

    fn take_back(&self, size: u64) -> Result<()> {
        self.size.store(size, Relaxed);
        Ok(())
    }
}
