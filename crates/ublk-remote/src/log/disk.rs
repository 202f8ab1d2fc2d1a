//! The disk: what is known of a volume before it is served, and the volume while it is.

use super::clone::CloneOf;
use super::engine::LogEngine;
use super::format::{BLOCK, LogId, Snapshot, Volume as Info};
use super::index::Index;
use super::layout::Layout;
use super::notes::{Left, Notes, Owner};
use super::origins::{Opener, Origins};
use super::reading::At;
pub use super::volume::Durable;
use super::volume::{Tuning, Volume};
use super::{changes, clone, collect, open, reading, tail, upload};
use crate::store::{Store, StoreCounters};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use ublk_core::backend::{Backend, CopyMode, Discard, Engine, File, Place, Properties, Site, Storage};
use ublk_core::error::{Error, ErrorKind, Result};

/// How a disk is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the volume is, as a URL.
    pub url: String,
    /// The directory of the local files; it is made if there is none.
    pub cache: PathBuf,
    /// Bytes: how long the local file may become.
    pub cache_size: u64,
    /// Bytes: the size of a volume that is made if there is none.
    pub size: Option<u64>,
    /// A snapshot with which a volume begins that is made if there is none.
    pub from: Option<CloneOf>,
    /// An earlier state of the volume: it is only read.
    pub at: Option<At>,
    /// How long what was stored can still be opened as it was then.
    pub retain: Duration,
    /// A volume to which something was written is refused.
    pub empty: bool,
    /// What a flush promises.
    pub durable: Durable,
    /// How long what was written may wait for more before it is stored, if nobody flushes.
    pub delay: Duration,
    /// How long a read waits for the store.
    pub patience: Duration,
}

impl Options {
    /// Bytes: the least and the usual length of the local file.
    pub const CACHE_SIZES: (u64, u64) = (64 << 20, 1 << 30);

    /// With a cache of the usual size.
    pub fn new(url: String, cache: PathBuf) -> Self {
        let Tuning { durable, delay, patience, retain, .. } = Tuning::default();
        let cache_size = Self::CACHE_SIZES.1;
        Self {
            url,
            cache,
            cache_size,
            size: None,
            from: None,
            at: None,
            retain,
            empty: false,
            durable,
            delay,
            patience,
        }
    }
}

/// What is known of a volume that is served.
#[derive(Debug, Clone, Copy, Default)]
pub struct Standing {
    /// Bytes that were written and are not in the store.
    pub behind: u64,
    /// For how long the oldest of them have waited.
    pub behind_for: Duration,
    /// It works no more: somebody else has opened the volume, or the cache is broken.
    pub stopped: bool,
    /// Bytes that clients wrote.
    pub written: u64,
    /// Segments stored.
    pub segments: u64,
    /// Bytes of all segments in the store, and those of them that are the disk's.
    pub stored: u64,
    /// See `stored`.
    pub live: u64,
    /// Bytes of chunks in the local file.
    pub cached: u64,
    /// Chunks that were asked of the store.
    pub misses: u64,
    /// Calls of the store that failed.
    pub failures: u64,
    /// Bytes that were moved out of segments with little in them.
    pub moved: u64,
    /// Objects deleted.
    pub deleted: u64,
    /// What was asked of the store.
    pub requests: StoreCounters,
}

/// See the [module](self).
pub struct LogDisk {
    store: Arc<dyn Store>,
    opener: Opener,
    info: Info,
    /// Bytes of the disk.
    size: AtomicU64,
    options: Options,
    tuning: Tuning,
    layout: Layout,
    data: Arc<File>,
    handle: Handle,
    /// The place of the newest map, as it was when the disk was made.
    newest: Mutex<Option<Option<LogId>>>,
    /// For what no request waits for.
    behind: Handle,
    volume: Mutex<Option<Arc<Volume>>>,
}

impl LogDisk {
    /// Finds a volume, or makes one if it has a size. May block. Nothing that another server uses is changed.
    pub fn open(opener: Opener, options: Options, handle: Handle) -> Result<Self> {
        let tuning = Tuning {
            durable: options.durable,
            delay: options.delay,
            patience: options.patience,
            retain: options.retain,
            ..Tuning::default()
        };
        Self::check(&options)?;
        let store = opener(&options.url)?;
        // At the same time: each question takes as long as the way to the store.
        let both =
            async { tokio::join!(Self::describe(&store, &options, &opener), tail::newest_map(&store)) };
        let (found, newest) = handle.block_on(both);
        let mut disk = Self::with((store, opener), found?, options, handle, tuning)?;
        disk.newest = Mutex::new(newest.ok());
        Ok(disk)
    }

    /// Before anything is made.
    fn check(options: &Options) -> Result<()> {
        let (size, least) = (options.cache_size, Options::CACHE_SIZES.0);
        if size < least {
            return Err(Error::invalid(format!("a cache of {size} bytes is below {least}")));
        }
        Ok(())
    }

    /// The volume, as its store says, and the size of the disk; it is made if there is none.
    pub(super) async fn describe(
        store: &Arc<dyn Store>,
        options: &Options,
        opener: &Opener,
    ) -> Result<(Info, u64)> {
        if let Some(from) = &options.from {
            return clone::create(store, &options.url, from, opener).await;
        }
        if let Some(at) = &options.at {
            let (info, _) = open::describe(&**store).await?;
            let origins = Origins::open(store.clone(), &info, opener)?;
            let size = reading::size(&origins, &info, at).await?;
            return Ok((info, size));
        }
        let Some(size) = options.size else { return open::describe(&**store).await };
        if size == 0 || !size.is_multiple_of(BLOCK) {
            return Err(Error::invalid(format!("{size} bytes are no multiple of {BLOCK}")));
        }
        let (info, found) = open::create(&**store, size).await?;
        if found != size {
            let what = format!("the volume at {} has {found} bytes, not {size}", store.name());
            return Err(Error::invalid(what));
        }
        if options.empty && open::has_content(&**store).await? {
            return Err(Error::new(ErrorKind::Exists, format!("{} has content already", store.name())));
        }
        Ok((info, size))
    }

    pub(super) fn with(
        (store, opener): (Arc<dyn Store>, Opener),
        (info, size): (Info, u64),
        options: Options,
        handle: Handle,
        tuning: Tuning,
    ) -> Result<Self> {
        std::fs::create_dir_all(&options.cache).map_err(|error| {
            Error::system(format!("cannot make {}", options.cache.display()), &error).kind(ErrorKind::Backend)
        })?;
        let layout = Layout::new(options.cache_size);
        let (data, _) = File::open_or_create(&options.cache.join("data"), layout.chunks.end, false)?;
        Ok(Self {
            store,
            opener,
            info,
            size: AtomicU64::new(size),
            options,
            tuning,
            layout,
            data: Arc::new(data),
            behind: handle.clone(),
            handle,
            newest: Mutex::new(None),
            volume: Mutex::new(None),
        })
    }

    /// If a flush does not wait for the store, what is written is stored by these threads, and requests go first.
    pub fn behind(mut self, handle: Handle) -> Self {
        if self.tuning.durable == Durable::Local {
            self.behind = handle;
        }
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.options.cache.join(name)
    }

    fn current(&self) -> MutexGuard<'_, Option<Arc<Volume>>> {
        self.volume.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The volume, which is taken from whoever has it, if this has not happened yet. May block.
    fn volume(&self) -> Result<Arc<Volume>> {
        let mut current = self.current();
        if let Some(volume) = &*current {
            return Ok(volume.clone());
        }
        let volume = Arc::new(self.handle.block_on(self.take())?);
        if self.options.at.is_none() {
            self.behind.spawn(upload::run(volume.clone()));
            self.behind.spawn(collect::run(volume.clone()));
        }
        self.handle.block_on(self.end_resize(&volume)).inspect_err(|_| volume.end())?;
        Ok(current.insert(volume).clone())
    }

    /// What the files of the cache are of.
    fn owner(&self) -> String {
        let only_read = if self.options.at.is_some() { " read" } else { "" };
        format!("{}{only_read}", self.info.id)
    }

    /// Takes the volume from the process that has it; an earlier state is only read.
    pub(super) async fn take(&self) -> Result<Volume> {
        let used = |path: &Path| {
            let path = path.display().to_string();
            move |error: std::io::Error| {
                Error::system(format!("cannot use {path}"), &error).kind(ErrorKind::Backend)
            }
        };
        let path = self.path("notes");
        let left = Notes::read(&path).map_err(used(&path))?;
        if let Some(Left { owner, .. }) = &left
            && owner.volume != self.owner()
        {
            let what = format!("the cache {} is of another volume", self.options.cache.display());
            return Err(Error::new(ErrorKind::Backend, what).hint("use another directory"));
        }
        self.data.begin()?;
        let writer = open::random_id()?;
        let announce = || Notes::announce(&path, &writer);
        let origins = Origins::open(self.store.clone(), &self.info, &self.opener)?;
        let layout = self.layout.clone();
        let (mut state, unstored, epoch) = match &self.options.at {
            Some(at) => (reading::open(&origins, &self.info, layout, at).await?, Vec::new(), 0),
            None => {
                let left = left.as_ref();
                let opened = {
                    let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner).take();
                    open::take(&origins, &self.info, &writer, layout, left, announce, newest).await?
                };
                (opened.state, opened.unstored, opened.epoch)
            }
        };
        for unstored in unstored {
            if !state.restore(unstored.start, &unstored.extents) {
                let what = format!("the notes {} name what cannot be there", path.display());
                return Err(Error::new(ErrorKind::Backend, what));
            }
        }
        let index = self.path("index");
        let (entries, found) =
            Index::open(&index, &self.info.id, self.layout.slots()).map_err(used(&index))?;
        for (slot, chunk) in found {
            if let Some(segment) = state.number(chunk.id) {
                state.cache.restore(slot, super::cache::Key { segment, chunk: chunk.chunk });
            }
        }
        entries.reopened().map_err(used(&index))?;
        // The notes say that the data that they name is durable.
        self.data.sync().map_err(used(&self.path("data")))?;
        let owner = Owner { volume: self.owner(), writer: writer.clone(), epoch, next: String::new() };
        let notes = Notes::create(&path, owner, &state.unstored()).map_err(used(&path))?;
        let files = (self.data.clone(), entries, notes);
        let (opener, tuning) = (self.opener.clone(), self.tuning.clone());
        Ok(Volume::new(writer, (origins, opener), tuning, files, state))
    }

    /// A server that ended while it changed the size may have put it into its log, and nowhere else: then it does not count.
    async fn end_resize(&self, volume: &Arc<Volume>) -> Result<()> {
        if self.options.at.is_some() || volume.size() == self.size.load(SeqCst) {
            return Ok(());
        }
        let (_, size) = open::describe(&*self.store).await?;
        if volume.size() != size {
            changes::set_size(volume, size).await?;
        }
        self.size.store(size, SeqCst);
        Ok(())
    }

    /// Its snapshots, the oldest first, as of now.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>> {
        let all = self.served()?.state().snapshots.all();
        Ok(all.into_iter().filter(|snapshot| !snapshot.removing).collect())
    }

    /// Removes one, unless it has clones. May block.
    pub fn remove_snapshot(&self, name: &str) -> Result<()> {
        let volume = self.served()?;
        self.handle.block_on(clone::remove(&volume, name))
    }

    fn served(&self) -> Result<Arc<Volume>> {
        if self.options.at.is_some() {
            return Err(Error::new(ErrorKind::Unsupported, "an earlier state of a volume is only read"));
        }
        self.current().clone().ok_or_else(|| Error::new(ErrorKind::Closed, "the disk is not served"))
    }

    /// What a volume is, as its store says.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// How it stands, while it is served.
    pub fn standing(&self) -> Option<Standing> {
        let volume = self.current().clone()?;
        let counts = &volume.counts;
        let state = volume.state();
        let (stored, live) = state.stored().filter(|(_, segment)| state.is_own(segment.id)).fold(
            (0, 0),
            |(stored, live), (_, segment)| {
                (stored + u64::from(segment.blocks), live + u64::from(segment.live))
            },
        );
        Some(Standing {
            behind: state.behind(),
            behind_for: state.behind_since().map_or(Duration::ZERO, |since| since.elapsed()),
            stopped: state.stopped().is_some(),
            cached: state.cache.count() as u64 * Layout::CHUNK,
            stored: stored * BLOCK,
            live: live * BLOCK,
            written: counts.written.load(Relaxed),
            segments: counts.segments.load(Relaxed),
            misses: counts.misses.load(Relaxed),
            failures: counts.failures.load(Relaxed),
            moved: counts.moved.load(Relaxed) * BLOCK,
            deleted: counts.deleted.load(Relaxed),
            requests: volume.origins.counters(),
        })
    }

    /// Stores all that was written.
    pub(super) async fn finish(volume: &Arc<Volume>) -> std::result::Result<(), String> {
        upload::drain(volume).await.map_err(|_| "the disk has stopped".to_owned())?;
        // So that the next one begins at once, however much was written.
        if volume.state().since_map.0 > 16 {
            collect::store_map(volume, &mut true).await?;
        }
        Ok(())
    }
}

impl Backend for LogDisk {
    fn properties(&self) -> Properties {
        Properties {
            block_size: 512,
            write_cache: true,
            physical_block: 4096,
            // The kernel reads ahead twice as much.
            optimal_io: 1 << 20,
            discard: Some(Discard {
                granularity: 4096,
                alignment: 0,
                max: 1 << 30,
                max_write_zeroes: 1 << 30,
            }),
            ..Properties::new(self.size.load(SeqCst))
        }
    }

    fn copy_modes(&self) -> Vec<CopyMode> {
        File::COPY_MODES.to_vec()
    }

    fn places(&self) -> Vec<Place<'_>> {
        self.data.places()
    }

    fn identity(&self) -> Result<String> {
        Ok(format!("{} bytes of the volume {}", self.size.load(SeqCst), self.info.id))
    }

    fn check_claimed(&self) -> Result<()> {
        self.volume().map(drop)
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
        let volume = self.volume()?;
        volume.report_to(site.reporter());
        Ok(Box::new(LogEngine::new(volume, self.handle.clone(), site)?))
    }

    fn resize(&self, _from: u64, to: u64) -> Result<()> {
        if to == 0 || !to.is_multiple_of(BLOCK) {
            return Err(Error::invalid(format!("a volume has a multiple of {BLOCK} bytes, not {to}")));
        }
        let volume = self.served()?;
        self.handle.block_on(changes::set_size(&volume, to))?;
        self.size.store(to, SeqCst);
        Ok(())
    }

    fn snapshot(self: Arc<Self>, name: &str, now: &dyn Fn()) -> Result<()> {
        let volume = self.served()?;
        self.handle.block_on(changes::prepare_snapshot(&volume, name))?;
        now();
        let order = changes::make_snapshot(&volume, name)?;
        self.handle.block_on(changes::wait_until_stored(&volume, order))
    }

    fn take_back(&self, size: u64) -> Result<()> {
        // Another server may have enlarged it. What the volume has is known once it is taken.
        self.size.fetch_max(size, SeqCst);
        Ok(())
    }

    fn let_go(&self) {
        if let Some(volume) = self.current().take() {
            volume.end();
        }
    }

    fn close(&self) -> Result<()> {
        let Some(volume) = self.current().take() else { return self.data.close() };
        if self.options.at.is_some() {
            volume.end();
            return volume
                .close_files()
                .map_err(|error| Error::system("the cache cannot be closed", &error).kind(ErrorKind::Backend))
                .and(self.data.close());
        }
        let limit = self.options.patience;
        let done = self.handle.block_on(async { tokio::time::timeout(limit, Self::finish(&volume)).await });
        let behind = volume.state().behind();
        volume.end();
        let failed = |why: &str| {
            let cache = self.options.cache.display();
            let what = format!("{behind} bytes are only in {cache}, and not in {}: {why}", self.store.name());
            Error::new(ErrorKind::Backend, what)
                .hint("they are stored when the disk is made again with that cache")
        };
        let done = match done {
            Ok(Ok(())) => volume.close_files().map_err(|error| {
                Error::system("the cache cannot be closed", &error).kind(ErrorKind::Backend)
            }),
            Ok(Err(why)) => Err(failed(&why)),
            Err(_) => Err(failed("it does not answer")),
        };
        done.and(self.data.close())
    }
}
