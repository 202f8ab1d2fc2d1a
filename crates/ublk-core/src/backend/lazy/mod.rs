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
use map::MapFile;
pub use map::{Found, Identity, Map};
pub use progress::{Filling, Progress};

use super::shares::shares;
use super::{Backend, Engine, Properties, Site, Storage};
use crate::claim::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::queue::CopyMode;
use chunks::Chunks;
use engine::LazyEngine;
use filler::{Filler, Job};
use room::Room;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

/// Where the data of a lazy disk comes from.
pub trait Source: Send + Sync {
    /// Asks for some data. Called on a queue's thread, so it must not block: the answer may come at any time, on
    /// any thread.
    fn fetch(&self, fill: Fill);
}

/// See the [module](self).
pub struct Lazy {
    current: Arc<Current>,
    storage: Arc<dyn Storage>,
    /// The file of the map, if it is kept.
    map: Option<MapFile>,
    /// The bound of the cache.
    max: Option<u64>,
    background: Background,
    /// Whether it is filled in the background, and at most so many bytes a second.
    fill: Option<Option<u64>>,
    /// The source's content.
    name: String,
}

/// Replaced when the disk is taken back: another process may have changed the files meanwhile.
type Current = RwLock<Arc<Inner>>;

/// One term of serving the disk.
struct Inner {
    chunks: Arc<Chunks>,
    storage: Arc<dyn Storage>,
    source: Arc<dyn Source>,
    filler: Filler,
    /// It is served: its files are claimed, and what is in them fits into the bound.
    begun: Mutex<bool>,
    /// Another process may use the files.
    away: AtomicBool,
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
        if max.is_some() {
            Self::check_bounded(&*storage, map.chunk())?;
        }
        let file = map.home();
        let inner = Inner::new(map, max, storage.clone(), source)?;
        let current = Arc::new(RwLock::new(Arc::new(inner)));
        Ok(Self {
            current,
            storage,
            map: file,
            max,
            background: Background::default(),
            fill: None,
            name: String::new(),
        })
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
    fn begin(&self, inner: &Arc<Inner>) -> Result<()> {
        let mut begun = inner.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if !*begun {
            self.storage.begin()?;
            inner.chunks.map.begin();
            inner.chunks.fit(&*self.storage)?;
            if let Some(rate) = self.fill {
                self.background.start(Arc::downgrade(inner), rate)?;
            }
            *begun = true;
        }
        Ok(())
    }

    fn inner(&self) -> Arc<Inner> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// For a look at it from elsewhere.
    pub fn handle(&self) -> Handle {
        Handle { current: Arc::downgrade(&self.current), filling: self.background.state() }
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
    fn new(map: Map, max: Option<u64>, storage: Arc<dyn Storage>, source: Arc<dyn Source>) -> Result<Self> {
        let chunks = map.size().div_ceil(map.chunk());
        let room = max.map(|max| Room::new(max, map.chunk(), chunks, map.length())).transpose()?;
        let chunks = Arc::new(Chunks::new(map, room));
        let filler = Filler::start(chunks.clone(), storage.clone())?;
        Ok(Self { chunks, storage, source, filler, begun: Mutex::new(false), away: AtomicBool::new(false) })
    }

    /// Asks the source for missing chunks, which are busy already. `wanted`: a request waits for them.
    fn fetch(&self, range: Range<u64>, wanted: bool) {
        self.source.fetch(Fill::new(&self.chunks, self.filler.jobs(), range, wanted));
    }
}

/// A lazy disk, for as long as it exists.
#[derive(Clone)]
pub struct Handle {
    current: Weak<Current>,
    filling: background::State,
}

impl Handle {
    fn inner(&self) -> Option<Arc<Inner>> {
        Some(self.current.upgrade()?.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// How much of the disk is there, and what was done for that. Disturbs no queue.
    pub fn progress(&self) -> Option<Progress> {
        let inner = self.inner()?;
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

    /// How much of each cell of so many bytes is there, and how much of it clients wrote, which only a bounded cache knows: 0 none,
    /// 255 all. The time that it takes does not depend on the size of the disk; it disturbs no queue.
    pub fn shares(&self, cell: u64) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
        let inner = self.inner()?;
        let map = &inner.chunks.map;
        let of = |holds: &dyn Fn(u64) -> bool| shares(map.size(), cell, map.chunk(), holds);
        let dirty = map.is_bounded().then(|| of(&|chunk| map.is_dirty(chunk)));
        Some((of(&|chunk| map.has(chunk)), dirty))
    }

    /// Fetches what is missing of a range of bytes. Blocks until it is there; a bounded cache may evict it again.
    pub fn prefetch(&self, offset: u64, length: u64, cancelled: &dyn Fn() -> bool) -> Result<()> {
        let Some(inner) = self.inner() else {
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
        let disk = Arc::downgrade(&inner);
        drop(inner); // it may be closed meanwhile
        background::bring(&disk, chunks, cancelled)
            .map_err(|error| Error::system("cannot fetch all of that", &error).kind(ErrorKind::Backend))
    }
}

impl Backend for Lazy {
    fn properties(&self) -> Properties {
        let storage = self.storage.properties();
        // A map in a file is as good as the last flush.
        Properties { write_cache: storage.write_cache || self.map.is_some(), ..storage }
    }

    fn copy_modes(&self) -> Vec<CopyMode> {
        self.storage.copy_modes()
    }

    fn places(&self) -> Vec<Place<'_>> {
        self.storage.places().into_iter().chain(self.map.as_ref().map(MapFile::place)).collect()
    }

    /// That of the source: what is in the cache changes, the content does not.
    fn identity(&self) -> Result<String> {
        Ok(format!("{} bytes of {}", self.storage.properties().size, self.name))
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
        let inner = self.inner();
        inner.chunks.report_to(site.reporter());
        let engine = LazyEngine::new(inner.clone(), site)?;
        self.begin(&inner)?;
        Ok(Box::new(engine))
    }

    fn let_go(&self) {
        let inner = self.inner();
        // After a failed sync the file does not say what is lost: no other process could refuse to read that.
        if !inner.chunks.map.is_kept() || inner.chunks.map.failed() {
            return;
        }
        self.background.end();
        // What is present and not saved is in the file, and what is being fetched is fetched again.
        inner.filler.leave();
        inner.chunks.map.let_go();
        inner.away.store(true, SeqCst);
    }

    fn take_back(&self, _size: u64) -> Result<()> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.away.load(SeqCst) {
            let map = current.chunks.map.again()?;
            *current = Arc::new(Inner::new(map, self.max, self.storage.clone(), current.source.clone())?);
        }
        Ok(())
    }

    fn close(&self) -> Result<()> {
        self.background.end();
        let inner = self.inner();
        if inner.away.load(SeqCst) {
            return self.storage.close();
        }
        let saved = inner.filler.close().map_err(|error| {
            let what = "data fetched or written since the last flush may be lost";
            Error::system(format!("the disk's cache could not be saved: {what}"), &error)
                .kind(ErrorKind::Backend)
        });
        if let (Ok(()), Err(error)) = (&saved, inner.chunks.map.seal()) {
            inner.chunks.report(format!("cannot record in the map that the disk was closed: {error}"));
        }
        inner.chunks.map.let_go();
        saved.and(self.storage.close())
    }
}
