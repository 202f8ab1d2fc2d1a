//! A disk that is filled on demand. What is not there yet is fetched from a [`Source`] once, kept in a native
//! storage, and never asked for again; writes and discards of whole chunks need no fetch at all.
//!
//! A request whose chunks are all there costs one look at the [`Map`] more than without. Any other one goes
//! through [`chunks`], which lets each chunk be fetched, or be overwritten for the first time, by one request at
//! a time; the requests that need it meanwhile wait, and are woken through their queue's [`Inbox`].

mod chunks;
mod engine;
mod filler;
mod map;

pub use filler::Fill;
pub use map::{Identity, Map};

use super::{Alignment, Backend, Engine, Properties, Site, Storage};
use crate::claim::Place;
use crate::error::{Error, Result};
use crate::queue::CopyMode;
use chunks::Chunks;
use engine::LazyEngine;
use filler::{Filler, Job};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// Where the data of a lazy disk comes from.
pub trait Source: Send + Sync {
    /// Asks for some data. Called on a queue's thread, so it must not block: the answer may come at any time, on
    /// any thread.
    fn fetch(&self, fill: Fill);
}

/// See the [module](self).
pub struct Lazy {
    chunks: Arc<Chunks>,
    storage: Arc<dyn Storage>,
    source: Arc<dyn Source>,
    filler: Filler,
}

impl Lazy {
    /// The smallest chunk, in bytes.
    pub const LEAST_CHUNK: u64 = 4096;
    /// The largest chunk, in bytes.
    pub const MOST_CHUNK: u64 = 16 << 20;

    /// A disk as large as `storage`, filled in chunks of the map's size.
    pub fn new(storage: Arc<dyn Storage>, map: Map, source: Arc<dyn Source>) -> Result<Self> {
        if map.size() != storage.properties().size {
            return Err(Error::invalid("the map is of a disk of another size"));
        }
        let chunks = Arc::new(Chunks::new(map));
        let filler = Filler::start(chunks.clone(), storage.clone())?;
        Ok(Self { chunks, storage, source, filler })
    }

    /// Whether a chunk size is possible.
    pub fn check_chunk(chunk: u64) -> Result<()> {
        if chunk.is_power_of_two() && (Self::LEAST_CHUNK..=Self::MOST_CHUNK).contains(&chunk) {
            return Ok(());
        }
        Err(Error::invalid(format!("chunk {chunk} is not possible"))
            .hint("a power of two from 4 KiB to 16 MiB is"))
    }
}

impl Backend for Lazy {
    fn properties(&self) -> Properties {
        let storage = self.storage.properties();
        // A map in a file is as good as the last flush.
        Properties { write_cache: storage.write_cache || self.chunks.map.is_kept(), ..storage }
    }

    fn copy_modes(&self) -> &'static [CopyMode] {
        self.storage.copy_modes()
    }

    fn alignment(&self) -> Alignment {
        self.storage.alignment()
    }

    fn files(&self) -> Vec<BorrowedFd<'_>> {
        self.storage.files()
    }

    fn places(&self) -> Vec<Place<'_>> {
        self.storage.places().into_iter().chain(self.chunks.map.place()).collect()
    }

    fn engine(&self, site: &Site) -> Result<Box<dyn Engine + '_>> {
        Ok(Box::new(LazyEngine::new(self, self.storage.engine(site)?, site)))
    }

    fn close(&self) {
        self.filler.close();
        self.chunks.map.let_go();
        self.storage.close();
    }
}
