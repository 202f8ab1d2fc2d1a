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
//!
//! A cache may be bounded: see [`room`] and [`evict`]. Then a request also pins its chunks while the storage works on
//! them.

mod background;
mod chunks;
mod engine;
mod evict;
mod file_source;
mod filler;
mod map;
mod progress;
mod room;
#[cfg(test)]
mod tests;
mod turns;

use background::Background;
pub use file_source::FileSource;
pub use filler::Fill;
pub use map::{Found, Identity, Map};
pub use progress::{Filling, Progress};

use super::{Backend, Engine, Properties, Site, Storage};
use crate::claim::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::queue::CopyMode;
use chunks::Chunks;
use engine::LazyEngine;
use filler::{Filler, Job};
use room::Room;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Where the data of a lazy disk comes from.
pub trait Source: Send + Sync {
    /// Asks for some data. Called on a queue's thread, so it must not block: the answer may come at any time, on
    /// any thread.
    fn fetch(&self, fill: Fill);
}

/// See the [module](self).
pub struct Lazy {
    inner: Arc<Inner>,
    background: Background,
    /// Whether it is filled in the background, and at most so many bytes a second.
    fill: Option<Option<u64>>,
    /// The source's content.
    name: String,
}

struct Inner {
    chunks: Arc<Chunks>,
    storage: Arc<dyn Storage>,
    source: Arc<dyn Source>,
    filler: Filler,
    /// It is served: its files are claimed, and what is in them fits into the bound.
    begun: Mutex<bool>,
}

impl Lazy {
    /// The smallest chunk, in bytes.
    pub const LEAST_CHUNK: u64 = 4096;
    /// The largest chunk, in bytes.
    pub const MOST_CHUNK: u64 = 16 << 20;

    /// A disk as large as `storage`, filled in chunks of the map's size.
    pub fn new(storage: Arc<dyn Storage>, map: Map, source: Arc<dyn Source>) -> Result<Self> {
        Self::with(storage, map, source, None)
    }

    /// The same with a cache of at most `max` bytes, map included. The map has to be made for that.
    pub fn bounded(storage: Arc<dyn Storage>, map: Map, source: Arc<dyn Source>, max: u64) -> Result<Self> {
        Self::with(storage, map, source, Some(max))
    }

    fn with(storage: Arc<dyn Storage>, map: Map, source: Arc<dyn Source>, max: Option<u64>) -> Result<Self> {
        if map.size() != storage.properties().size {
            return Err(Error::invalid("the map is of a disk of another size"));
        }
        if map.is_bounded() != max.is_some() {
            return Err(Error::invalid("the map is for another kind of cache"));
        }
        storage.begin()?;
        if max.is_some() {
            Self::check_bounded(&*storage, map.chunk())?;
        }
        let chunks = map.size().div_ceil(map.chunk());
        let room = max.map(|max| Room::new(max, map.chunk(), chunks, map.length())).transpose()?;
        let chunks = Arc::new(Chunks::new(map, room));
        let filler = Filler::start(chunks.clone(), storage.clone())?;
        let inner = Arc::new(Inner { chunks, storage, source, filler, begun: Mutex::new(false) });
        Ok(Self { inner, background: Background::default(), fill: None, name: String::new() })
    }

    /// The same disk, which fetches what is missing once it is served: at up to `rate` bytes a second, while no request
    /// waits for the source, until all is there or the cache is full.
    #[must_use]
    pub fn filled(self, rate: Option<u64>) -> Self {
        Self { fill: Some(rate), ..self }
    }

    /// The same disk, whose source's content has that name; see [`Identity::name`].
    #[must_use]
    pub fn named(self, name: String) -> Self {
        Self { name, ..self }
    }

    /// Called before an engine serves. Until then the files may be another server's, so nothing in them is changed.
    fn begin(&self) -> Result<()> {
        let mut begun = self.inner.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if !*begun {
            self.inner.chunks.fit(&*self.inner.storage)?;
            if let Some(rate) = self.fill {
                self.background.start(Arc::downgrade(&self.inner), rate)?;
            }
            *begun = true;
        }
        Ok(())
    }

    /// For a look at it from elsewhere.
    pub fn handle(&self) -> Handle {
        Handle { inner: Arc::downgrade(&self.inner), filling: self.background.state() }
    }

    /// Whether requests of up to `max_io` bytes fit into a cache of at most `max` bytes, whose map is in a file if it is
    /// `kept`. Called before its files are made: the map is as large as the disk's claimed size demands.
    pub fn check_bound(identity: &Identity, kept: bool, max: u64, max_io: u32) -> Result<()> {
        let map = if kept { Map::length_of(identity, true) } else { 0 };
        Room::check(max, identity.chunk, map, max_io)
    }

    /// Whether a chunk size is possible.
    pub fn check_chunk(chunk: u64) -> Result<()> {
        if chunk.is_power_of_two() && (Self::LEAST_CHUNK..=Self::MOST_CHUNK).contains(&chunk) {
            return Ok(());
        }
        Err(Error::invalid(format!("chunk {chunk} is not possible"))
            .hint("a power of two from 4 KiB to 16 MiB is"))
    }

    /// Whether an evicted chunk frees all of its space in that storage: a bound counts on it. Can be asked before there is a
    /// map, which would keep the chunk size.
    pub fn check_bounded(storage: &dyn Storage, chunk: u64) -> Result<()> {
        let unit = storage.unit();
        if chunk.is_multiple_of(unit) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "the cache's file system allocates {unit} bytes at a time, so chunks of {chunk} bytes could exceed the bound"
        ))
        .hint(format!("make the chunk a multiple of {unit}, or use a cache on another file system")))
    }
}

impl Inner {
    /// Asks the source for missing chunks, which are busy already. `wanted`: a request waits for them.
    fn fetch(&self, range: Range<u64>, wanted: bool) {
        self.source.fetch(Fill::new(&self.chunks, self.filler.jobs(), range, wanted));
    }
}

/// A lazy disk, for as long as it exists.
#[derive(Clone)]
pub struct Handle {
    inner: Weak<Inner>,
    filling: background::State,
}

impl Handle {
    /// How much of the disk is there, and what was done for that. Disturbs no queue.
    pub fn progress(&self) -> Option<Progress> {
        let inner = self.inner.upgrade()?;
        let map = &inner.chunks.map;
        let bytes = |chunks: u64| (chunks * map.chunk()).min(map.size());
        let [fetches, fetched, failures, evicted] = inner.chunks.counters.now();
        Some(Progress {
            size: map.size(),
            chunk: map.chunk(),
            present: bytes(map.count()),
            dirty: map.count_dirty().map(bytes),
            max: inner.chunks.room.as_ref().map(|room| room.most * map.chunk()),
            fetches,
            fetched,
            failures,
            evicted,
            filling: self.filling.now(),
        })
    }

    /// Fetches what is missing of a range of bytes. Blocks until it is there; a bounded cache may evict it again.
    pub fn prefetch(&self, offset: u64, length: u64, cancelled: &dyn Fn() -> bool) -> Result<()> {
        let Some(inner) = self.inner.upgrade() else {
            return Err(Error::new(ErrorKind::Closed, "the disk is not served any more"));
        };
        if !*inner.begun.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(Error::new(ErrorKind::Closed, "the disk is not served yet"));
        }
        let end = offset.checked_add(length).filter(|end| *end <= inner.chunks.map.size());
        if end.is_none() {
            return Err(Error::invalid(format!("{length} bytes at {offset} are not on the disk")));
        }
        if length == 0 {
            return Ok(());
        }
        let chunks = inner.chunks.touched(offset, length);
        drop(inner); // it may be closed meanwhile
        background::bring(&self.inner, chunks, cancelled)
            .map_err(|error| Error::system("cannot fetch all of that", &error).kind(ErrorKind::Backend))
    }
}

impl Backend for Lazy {
    fn properties(&self) -> Properties {
        let storage = self.inner.storage.properties();
        // A map in a file is as good as the last flush.
        Properties { write_cache: storage.write_cache || self.inner.chunks.map.is_kept(), ..storage }
    }

    fn copy_modes(&self) -> Vec<CopyMode> {
        self.inner.storage.copy_modes()
    }

    fn places(&self) -> Vec<Place<'_>> {
        self.inner.storage.places().into_iter().chain(self.inner.chunks.map.place()).collect()
    }

    /// That of the source: what is in the cache changes, the content does not.
    fn identity(&self) -> Result<String> {
        Ok(format!("{} bytes of {}", self.inner.chunks.map.size(), self.name))
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
        self.inner.chunks.report_to(site.reporter());
        let engine = LazyEngine::new(self.clone(), site)?;
        self.begin()?;
        Ok(Box::new(engine))
    }

    fn close(&self) -> Result<()> {
        self.background.end();
        let saved = self.inner.filler.close().map_err(|error| {
            let what = "data fetched or written since the last flush may be lost";
            Error::system(format!("the disk's cache could not be saved: {what}"), &error)
                .kind(ErrorKind::Backend)
        });
        if let (Ok(()), Err(error)) = (&saved, self.inner.chunks.map.seal()) {
            self.inner.chunks.report(format!("cannot record in the map that the disk was closed: {error}"));
        }
        self.inner.chunks.map.let_go();
        saved.and(self.inner.storage.close())
    }
}
