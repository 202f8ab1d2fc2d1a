//! A disk that is filled on demand. What is not there yet is fetched from a [`Source`] once, kept in a native
//! storage, and never asked for again; writes and discards of whole chunks need no fetch at all.
//!
//! A request whose chunks are all there costs one look at the [`Map`] more than without. Any other one goes
//! through [`chunks`], which lets each chunk be fetched, or be overwritten for the first time, by one request at
//! a time; the requests that need it meanwhile wait, and are resumed through their queue's [`Completer`](crate::queue::Completer).
//!
//! A chunk that is present but not saved can still be lost: if the kernel cannot write it back, it drops the pages, and
//! a read then finds zeroes. So each read of such a chunk checks afterwards that the storage is
//! [intact](Storage::intact), which costs a system call, but nothing once the chunk is saved: the filler saves after a
//! while without work, so that this does not depend on flushes. After a failure, chunks that were only fetched are
//! fetched again, reads of lost data fail, and so does every flush until the disk is created again: no flush succeeds
//! without making data durable.

mod bits;
mod chunks;
mod engine;
mod filler;
mod map;
mod place;

pub use filler::Fill;
pub use map::{Found, Identity, Map};

use super::{Backend, Engine, Properties, Site, Storage};
use crate::claim::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::queue::CopyMode;
use chunks::Chunks;
use engine::LazyEngine;
use filler::{Filler, Job};
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

    fn copy_modes(&self) -> Vec<CopyMode> {
        self.storage.copy_modes()
    }

    fn places(&self) -> Vec<Place<'_>> {
        self.storage.places().into_iter().chain(self.chunks.map.place()).collect()
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
        self.chunks.report_to(site.reporter());
        Ok(Box::new(LazyEngine::new(self, site)?))
    }

    fn close(&self) -> Result<()> {
        let saved = self.filler.close().map_err(|error| {
            let what = "data fetched or written since the last flush may be lost";
            Error::system(format!("the disk's cache could not be saved: {what}"), &error)
                .kind(ErrorKind::Backend)
        });
        self.chunks.map.let_go();
        saved.and(self.storage.close())
    }
}
