//! What lies below an overlay that needs no base.

use crate::backend::{Backend, Engine, Io, Piece, Properties, Site, Step};
use crate::claim::Place;
use crate::error::Result;
use crate::queue::CopyMode;
use std::sync::Arc;

/// A disk without a byte, which nobody reads.
pub struct Nothing {
    /// Of the overlay's blocks, in bytes.
    pub block_size: u32,
}

impl Backend for Nothing {
    fn properties(&self) -> Properties {
        Properties { block_size: self.block_size, ..Properties::new(0) }
    }

    fn copy_modes(&self) -> Vec<CopyMode> {
        vec![CopyMode::Zero, CopyMode::Copy, CopyMode::User]
    }

    fn places(&self) -> Vec<Place<'_>> {
        Vec::new()
    }

    fn engine(self: Arc<Self>, _: &mut Site) -> Result<Box<dyn Engine>> {
        Ok(Box::new(NoEngine))
    }
}

/// Fails what it is asked.
pub struct NoEngine;

impl Engine for NoEngine {
    fn start(&mut self, _: &mut Io<'_>, _: Piece) -> Step {
        Step::Done(Err(libc::EIO))
    }
}
