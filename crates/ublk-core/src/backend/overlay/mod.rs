//! A disk that reads from a *base*, which is never written to, what was not written yet, and keeps what is written in an
//! *upper*: a sparse file with a map of its own, or memory. Several overlays can share a base, and its page cache.
//!
//! Every piece goes to the disk below that has its data, so nothing is copied: a write of one sector moves one sector. The
//! [`index`] in memory says which layer has a sector. A discarded sector is in the upper, as a hole.
//!
//! The upper is the last of several *layers*: a snapshot makes the one that is written so far the layer below a new one. A
//! file names the one below it, and the index names the layer of each sector, so that a chain of them is read at the speed
//! of one. See [`snapshot`] and [`reset`].
//!
//! The order of a write: its data, the note in the upper's file, the index, the answer. The notes of all writes that end in
//! a queue's turn are one system call. So a read finds a sector in the
//! upper only when its data is there, and so does the next server if this one is killed. What a flush makes durable, and
//! in which order, is the upper's: see [`upper`].

mod changes;
mod commit;
mod engine;
mod flatten;
mod index;
mod job;
mod layers;
mod nothing;
mod queues;
mod reset;
mod snapshot;
#[cfg(test)]
mod tests;
mod upper;
mod zeroes;

pub use job::FlattenProgress;
pub use layers::LayerInfo;
pub use upper::{Parent, Prepared, Saved, Shape, Upper, Uuid};

use super::new_file::NewFile;
use super::{Backend, Changes, Engine, Extent, Memory, Properties, Site, identity, parts, resize_in_order};
use crate::claim::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::queue::{CopyMode, Errno};
use crate::report::Reporter;
use engine::OverlayEngine;
use index::{Index, Layer};
use job::Job;
use layers::{FIRST, Kept, Layers, Written};
use nothing::Nothing;
use queues::Queues;
use snapshot::PATIENCE;
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// See the [module](self).
pub struct Overlay {
    /// The upper, until a queue is served.
    new: NewFile,
    base: Arc<dyn Backend>,
    /// The identity of its content.
    base_name: String,
    /// The bytes of the base. 0: there is none.
    base_size: AtomicU64,
    layers: Layers,
    index: Index,
    size: AtomicU64,
    queues: Queues,
    /// The most bytes of a request.
    max_io: AtomicU32,
    job: Job,
    /// Ends when the layer below the one that is written is sealed.
    sealing: Mutex<Option<JoinHandle<()>>>,
    /// Another process may use the files of the layers.
    away: AtomicBool,
    /// Receives the errors of saves that no request waits for.
    reporter: Mutex<Option<Reporter>>,
}

impl Overlay {
    /// A disk of `size` bytes, by default as large as `base`, whose writes go to memory. Beyond the base it reads as zeroes.
    pub fn in_memory(base: Arc<dyn Backend>, size: Option<u64>) -> Result<Self> {
        let size = size.unwrap_or(base.properties().size);
        Self::with_upper(base, Arc::new(Memory::new(size)?), size)
    }

    /// The same with an empty upper, at least as large.
    pub(super) fn with_upper(base: Arc<dyn Backend>, upper: Arc<dyn Backend>, size: u64) -> Result<Self> {
        let (base_size, name) = (Self::check_base(&*base)?, identity_of(&*base)?);
        Ok(Self::of(base, base_size, name, vec![Written { disk: upper, start: 0, kept: None }], size))
    }

    fn of(
        base: Arc<dyn Backend>,
        base_size: u64,
        base_name: String,
        layers: Vec<Written>,
        size: u64,
    ) -> Self {
        Self {
            new: NewFile::default(),
            base,
            base_name,
            base_size: AtomicU64::new(base_size),
            layers: Layers::new(layers),
            index: Index::new(),
            size: AtomicU64::new(size),
            queues: Queues::default(),
            max_io: AtomicU32::new(0),
            job: Job::default(),
            sealing: Mutex::default(),
            away: AtomicBool::new(false),
            reporter: Mutex::default(),
        }
    }

    #[cfg(test)]
    pub(crate) fn max_io(&self) -> u32 {
        self.max_io.load(SeqCst)
    }

    /// A disk whose writes go to the upper in a file, which is created if it does not exist. Its size is by default that of
    /// the upper, or of the base for a new one. `read_only`: the upper exists, and is shared with others that only read it.
    pub fn in_file(base: Arc<dyn Backend>, path: &Path, size: Option<u64>, read_only: bool) -> Result<Self> {
        let (base, base_size) = match Self::nothing_below(path)? {
            Some(nothing) => (nothing, 0),
            None => (base.clone(), Self::check_base(&*base)?),
        };
        let (block_size, name) = (base.properties().block_size, identity_of(&*base)?);
        let shape =
            |size| Shape { size, block_size, base: &name, parent: None, alone: false, committing: false };
        let mut new = NewFile::default();
        let layers = if path.symlink_metadata().is_ok() {
            let size = size.map_or_else(|| Upper::size_at(path), Ok)?;
            Upper::open_chain(path, &shape(size), read_only)?
        } else if read_only {
            return Err(Error::new(
                ErrorKind::Backend,
                format!("the upper {} does not exist", path.display()),
            )
            .hint("a read-only disk writes to no upper: leave it out, or name one that exists"));
        } else {
            let size = size.unwrap_or(base_size);
            if !size.is_multiple_of(block_size.into()) {
                return Err(Error::invalid(format!(
                    "the overlay's size {size} is not a multiple of the block size {block_size}"
                ))
                .hint("disks consist of whole blocks"));
            }
            let upper = Upper::create(path, &shape(size))?;
            new = upper.is_new()?;
            vec![upper]
        };
        let size = layers.last().map_or(base_size, Upper::size);
        let layers = layers.into_iter().map(|upper| Written::kept(Arc::new(upper))).collect::<Result<_>>()?;
        let overlay = Self { new, ..Self::of(base, base_size, name, layers, size) };
        overlay.find_present(FIRST)?;
        Ok(overlay)
    }

    /// What takes the place of a base below an upper that was flattened, or was made over one that was; `None` if it needs its
    /// base, or does not exist.
    pub fn nothing_below(path: &Path) -> Result<Option<Arc<dyn Backend>>> {
        if path.symlink_metadata().is_err() {
            return Ok(None);
        }
        let block_size = Upper::stands_alone_at(path)?;
        Ok(block_size.map(|block_size| Arc::new(Nothing { block_size }) as Arc<dyn Backend>))
    }

    /// A disk that begins with a snapshot of another one: its writes go to the upper at `path`, which is created over the file
    /// of the snapshot, in the same directory, if it does not exist.
    pub fn over_snapshot(
        base: Arc<dyn Backend>,
        snapshot: &Path,
        path: &Path,
        size: Option<u64>,
        read_only: bool,
    ) -> Result<Self> {
        let mut new = (path.symlink_metadata().is_err() && !read_only)
            .then(|| Self::fork(&*base, snapshot, path))
            .transpose()?;
        let mut overlay = Self::in_file(base, path, size, read_only)?;
        if let (Some(new), Some(kept)) = (new.take(), &overlay.layers.written().kept) {
            new.keep();
            overlay.new = kept.upper.is_new()?; // the one that is locked
        }
        let is_it = |layer: &Written| layer.kept.as_ref().is_some_and(|kept| kept.upper.is_at(snapshot));
        if overlay.layers.all().take(usize::from(overlay.layers.top() - FIRST)).any(is_it) {
            return Ok(overlay);
        }
        // Which one is not known any more if there were several.
        let was_over_one = |layer: &Written| {
            layer.is_alone() && layer.kept.as_ref().is_some_and(|kept| kept.upper.was_over().is_some())
        };
        if overlay.layers.all().next().is_some_and(was_over_one) {
            return Ok(overlay);
        }
        let (path, snapshot) = (path.display(), snapshot.display());
        Err(Error::new(
            ErrorKind::Backend,
            format!("the upper {path} was not made over the snapshot {snapshot}"),
        )
        .hint("leave the snapshot out, or name an upper that does not exist yet"))
    }

    /// A disk that exists already, whose server was killed, is going to be served again with `size` bytes: ends a resize that
    /// was interrupted. The upper is never smaller than the disk meanwhile.
    pub fn end_resize(base: &dyn Backend, path: &Path, size: u64) -> Result<()> {
        let (block_size, name, found) =
            (base.properties().block_size, identity_of(base)?, Upper::size_at(path)?);
        if found <= size {
            return Ok(());
        }
        let shape =
            Shape { size: found, block_size, base: &name, parent: None, alone: false, committing: false };
        Upper::open_chain(path, &shape, false)?.last().map_or(Ok(()), |upper| upper.resize(size))
    }

    /// It is served again for clients that were there before. If its last server has lost data, flushes fail.
    pub fn goes_on(&self) {
        self.layers.all().filter_map(|layer| layer.kept.as_ref()).for_each(|kept| kept.upper.goes_on());
    }

    /// Makes a new upper over a snapshot, for another disk with the same base.
    fn fork(base: &dyn Backend, snapshot: &Path, path: &Path) -> Result<NewFile> {
        let (block_size, name) = (base.properties().block_size, identity_of(base)?);
        let shape = Shape {
            size: Upper::size_at(snapshot)?,
            block_size,
            base: &name,
            parent: None,
            alone: false,
            committing: false,
        };
        let layers = Upper::open_chain(snapshot, &shape, true).map_err(|error| match error.kind {
            ErrorKind::Busy => error.hint(
                "its disk may not have completed the snapshot: make the new disk over it later, when the disk's writes have ended",
            ),
            _ => error,
        })?;
        match layers.last() {
            // Not the open file that is locked until here.
            Some(layer) => layer.fork(path)?.is_new_for_another(),
            None => Ok(NewFile::default()),
        }
    }

    /// The upper has all of the disk: neither the base nor a layer below is read any more.
    fn needs_nothing_below(&self) {
        self.base_size.store(0, SeqCst);
        self.layers.flattened();
    }

    /// Whether there is no base, or it is not needed.
    fn is_alone(&self) -> bool {
        self.base_size.load(Relaxed) == 0
    }

    /// Its uppers report the errors of saves that no request waits for.
    fn report_to(&self, reporter: &Reporter) {
        for kept in self.layers.all().filter_map(|layer| layer.kept.as_ref()) {
            kept.upper.report_to(reporter.clone());
        }
        *self.reporter.lock().unwrap_or_else(PoisonError::into_inner) = Some(reporter.clone());
    }

    fn reporter(&self) -> Option<Reporter> {
        self.reporter.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Marks what the layers from that one on have.
    fn find_present(&self, first: Layer) -> Result<()> {
        for number in first..=self.layers.top() {
            if let Some(kept) = &self.layers.of(number).kept {
                kept.upper.present(&mut |range| self.index.mark(range, number))?;
            }
        }
        Ok(())
    }

    /// The base was not served, or served elsewhere, until now.
    fn check_base_is_the_same(&self) -> Result<()> {
        if self.is_alone() {
            return Ok(());
        }
        let now = identity_of(&*self.base)?;
        if now == self.base_name {
            return Ok(());
        }
        let message = format!("the base was changed: it was {}, and is {now}", self.base_name);
        Err(Error::new(ErrorKind::Backend, message).hint("use the base as it was, or create another overlay"))
    }

    /// The size of a base, which has to consist of whole blocks.
    fn check_base(base: &dyn Backend) -> Result<u64> {
        let Properties { size, block_size, .. } = base.properties();
        if size == 0 || !size.is_multiple_of(block_size.into()) {
            return Err(Error::invalid(format!(
                "the overlay's base has {size} bytes, which are no whole blocks of {block_size}"
            ))
            .hint("use an image that ends with a whole block, for instance a slice of this one"));
        }
        Ok(size)
    }

    fn size(&self) -> u64 {
        self.size.load(Relaxed)
    }

    /// Where the first byte of a range is, and how many bytes of the range from there on are in the same layer: in the
    /// base, or in the upper.
    #[inline]
    fn find(&self, offset: u64, length: u64) -> (Layer, u64) {
        let (layer, run) = self.index.find(offset, length);
        match self.base_size.load(Relaxed).checked_sub(offset) {
            _ if layer != 0 => (layer, run),
            // Nothing was written there: it is a hole of the upper.
            None | Some(0) => (self.layers.top(), run),
            Some(left) => (0, run.min(left)),
        }
    }

    /// A layer has the data of these ranges from here on.
    fn mark(&self, ranges: &[Range<u64>], layer: Layer) -> std::result::Result<(), Errno> {
        if let Some(kept) = &self.layers.of(layer).kept {
            kept.upper.note_all(ranges)?;
        }
        for range in ranges {
            self.index.mark(range.clone(), layer);
        }
        Ok(())
    }

    /// Makes durable what was written to these layers, the lowest first, and calls `saved` then.
    fn save_then(self: &Arc<Self>, layers: RangeInclusive<Layer>, saved: Saved) {
        let (first, last) = (*layers.start(), *layers.end());
        let Some(kept) = &self.layers.of(first).kept else { return saved(Ok(())) };
        if first == last {
            return kept.upper.save_then(saved);
        }
        let this = self.clone();
        let next: Saved = Box::new(move |result| match result {
            Ok(()) => this.save_then(first + 1..=last, saved),
            Err(_) => saved(result),
        });
        kept.upper.save_then(next);
    }

    /// Makes the added bytes read as zeroes, also where the base or a layer has data: the upper has a hole there.
    fn hide_base(&self, added: Range<u64>) -> Result<()> {
        let sizes = self.layers.all().filter_map(|layer| layer.kept.as_ref()).map(|kept| kept.upper.size());
        let below = sizes.take(usize::from(self.layers.top() - FIRST)).max().unwrap_or(0);
        let range = added.start..added.end.min(self.base_size.load(Relaxed).max(below));
        if range.is_empty() {
            return Ok(());
        }
        self.mark(&[range], self.layers.top()).map_err(|errno| {
            let error = std::io::Error::from_raw_os_error(errno);
            Error::system("cannot record the disk's new size", &error).kind(ErrorKind::Backend)
        })?;
        // Before the file has the new size: a disk that grew does not show its base.
        self.layers.written().kept.as_ref().map_or(Ok(()), |kept| kept.upper.save())
    }

    fn change_size(&self, from: u64, to: u64) -> Result<()> {
        let Written { disk, start, kept } = self.layers.written();
        if let Some(Kept { upper, .. }) = kept
            && to > upper.capacity()
        {
            return upper.resize(to); // it refuses that
        }
        let kept = |to| kept.as_ref().map_or(Ok(()), |kept| kept.upper.resize(to));
        if to < from {
            kept(to)?; // never longer than its file
            return disk.resize(start + from, start + to);
        }
        disk.resize(start + from, start + to)?;
        self.hide_base(from..to)?;
        kept(to)
    }
}

impl Backend for Overlay {
    fn properties(&self) -> Properties {
        let upper = &self.layers.written().disk;
        let both = parts::together(&[self.base.clone(), upper.clone()], self.size());
        let (base, upper) = (self.base.properties(), upper.properties());
        Properties {
            write_cache: upper.write_cache,
            discard: upper.discard,
            chunk: base.chunk,
            optimal_io: base.optimal_io,
            ..both
        }
    }

    fn copy_modes(&self) -> Vec<CopyMode> {
        parts::copy_modes(&[self.base.clone(), self.layers.written().disk.clone()])
    }

    fn places(&self) -> Vec<Place<'_>> {
        let base = if self.is_alone() { Vec::new() } else { self.base.places() };
        let base = base.into_iter().map(of_base);
        // Sealed layers are locked, and found by what the upper says.
        base.chain(self.layers.written().kept.as_ref().map(|kept| kept.upper.place())).collect()
    }

    fn extents(&self, part: Range<u64>) -> Vec<Extent<'_>> {
        let base_size = self.base_size.load(Relaxed);
        let in_base = part.start.min(base_size)..part.end.min(base_size);
        let base = if in_base.is_empty() { Vec::new() } else { self.base.extents(in_base) };
        let base = base.into_iter().map(|extent| Extent { place: of_base(extent.place), ..extent });
        let Written { start, kept, .. } = self.layers.written();
        let upper = kept
            .as_ref()
            .map(|kept| Extent { place: kept.upper.place(), range: start + part.start..start + part.end });
        base.chain(upper).collect()
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
        let engine = OverlayEngine::new(self.clone(), site)?;
        self.new.keep();
        Ok(Box::new(engine))
    }

    fn resize(&self, from: u64, to: u64) -> Result<()> {
        self.resize_told(from, to, &|_| Ok(()))
    }

    fn resize_told(&self, from: u64, to: u64, tell: &dyn Fn(u64) -> Result<()>) -> Result<()> {
        let _job = self.job.begin("resized")?;
        resize_in_order(from, to, tell, &|from, to| {
            if to < from {
                self.size.store(to, Relaxed);
            }
            self.change_size(from, to).inspect_err(|_| self.size.store(from, Relaxed))?;
            self.size.store(to, Relaxed);
            Ok(())
        })
    }

    fn interrupt(&self, patience: Duration) -> Result<()> {
        self.job.interrupt(patience)
    }

    fn snapshot(self: Arc<Self>, name: &str) -> Result<()> {
        self.take_snapshot(name)
    }

    fn reset(&self) -> Result<()> {
        self.empty()
    }

    fn layers(&self) -> Vec<LayerInfo> {
        let top = self.layers.top();
        (self.layers.lowest()..=top).map(|number| self.layers.of(number).info(number == top)).collect()
    }

    fn flatten(self: Arc<Self>, rate: Option<u64>, given_up: &dyn Fn() -> bool) -> Result<()> {
        self.copy_all(rate, given_up)
    }

    fn flattening(&self) -> Option<FlattenProgress> {
        self.job.progress()
    }

    fn let_go(&self) {
        self.job.end(PATIENCE);
        // What is noted and not saved is in the files, and so is what is not sealed. After a failed sync it may be lost, and
        // does not count: another server would serve what was there before.
        let _ = self.finish_seal();
        if self.layers.all().filter_map(|layer| layer.kept.as_ref()).any(|kept| kept.upper.failed()) {
            return;
        }
        self.let_go_of_layers();
        self.base.let_go();
    }

    fn take_back(&self, size: u64) -> Result<()> {
        self.base.take_back(self.base.properties().size)?;
        if self.away.load(SeqCst) {
            for layer in self.layers.all() {
                layer.kept.as_ref().map_or(Ok(()), |kept| kept.upper.take_back())?;
            }
            // Another server may have written, reset, flattened or resized the disk. What is in memory nobody else has changed.
            if self.layers.written().kept.is_some() {
                if self.layers.written().is_alone() {
                    self.needs_nothing_below();
                }
                self.index.clear();
                self.find_present(self.layers.lowest())?;
            }
            self.size.store(size, Relaxed);
            self.away.store(false, SeqCst);
        }
        self.check_base_is_the_same()
    }

    fn changes(&self) -> Option<&dyn Changes> {
        self.tells_changes().then_some(self)
    }

    fn close(&self) -> Result<()> {
        self.job.end(PATIENCE);
        let saved = if self.away.load(SeqCst) { Ok(()) } else { self.finish_seal().and(self.save()) };
        self.let_go_of_layers();
        saved.and(self.base.close())
    }
}

impl Overlay {
    /// What is noted counts only until the next boot.
    fn save(&self) -> Result<()> {
        match &self.layers.written().kept {
            Some(Kept { upper, .. }) if upper.unsaved() => upper.save(),
            _ => Ok(()),
        }
    }

    fn let_go_of_layers(&self) {
        self.new.remove();
        if !self.away.swap(true, SeqCst) {
            self.layers.all().filter_map(|layer| layer.kept.as_ref()).for_each(|kept| kept.upper.let_go());
        }
    }
}

/// The identity of a base, as uppers keep it.
fn identity_of(base: &dyn Backend) -> Result<String> {
    base.identity().map(identity::kept)
}

/// A file of a base's data.
fn of_base(place: Place<'_>) -> Place<'_> {
    Place { role: place.role.below_overlay(), ..place }
}
