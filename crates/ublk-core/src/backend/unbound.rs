//! A disk for a device that is started before its backend is known. It is empty, so no client can read or write it, and
//! nothing of it can be in the page cache. [`Device::bind`](crate::Device::bind) puts a backend in its place.

use super::{Alignment, Backend, Discard, Engine, Io, Piece, Properties, Site, Step};
use crate::claim::Place;
use crate::error::Result;
use crate::queue::CopyMode;
use std::sync::Arc;

/// See the [module](self).
pub struct Unbound {
    block_size: u32,
}

/// The most files and claims of a backend that a ring has room for.
const FILES: u16 = 128;

/// As many operations of a request as an overlay has in the ring.
const OPERATIONS: u16 = 4;

impl Unbound {
    /// How disks of the backends can be given the data of requests. A file is served best by the first.
    pub const COPY_MODES: &'static [CopyMode] = &[CopyMode::Zero, CopyMode::Copy, CopyMode::User];

    /// For backends with blocks of `block_size` bytes or less.
    pub fn new(block_size: u32) -> Self {
        Self { block_size }
    }
}

impl Backend for Unbound {
    /// Those of most files and overlays: the driver takes them only before the disk is started.
    fn properties(&self) -> Properties {
        let granularity = self.block_size.max(4096);
        Properties {
            block_size: self.block_size,
            write_cache: true,
            discard: Some(Discard { granularity, alignment: 0, max: 1 << 30, max_write_zeroes: 1 << 30 }),
            // As for direct I/O with most devices.
            alignment: Alignment { start: 512, gap: 4096 },
            ..Properties::new(0)
        }
    }

    fn copy_modes(&self) -> Vec<CopyMode> {
        Self::COPY_MODES.to_vec()
    }

    fn places(&self) -> Vec<Place<'_>> {
        Vec::new()
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
        site.spare_files(FILES);
        site.operations(OPERATIONS);
        Ok(Box::new(UnboundEngine))
    }

    fn is_unbound(&self) -> bool {
        true
    }
}

struct UnboundEngine;

impl Engine for UnboundEngine {
    /// Only a flush can come.
    fn start(&mut self, _: &mut Io<'_>, _: Piece) -> Step {
        Step::Done(Err(libc::EIO))
    }
}
