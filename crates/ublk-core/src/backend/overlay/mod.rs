//! A disk that reads from a *base*, which only a commit writes to, what was not written yet, and keeps what is written in an
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
mod open;
pub(super) mod queues;
mod reset;
mod room;
mod snapshot;
#[cfg(test)]
mod tests;
mod upper;
mod zeroes;

pub use commit::Commit;
pub use job::FlattenProgress;
pub use layers::LayerInfo;
pub use upper::{Parent, Prepared, Saved, Shape, Upper, Uuid};

use super::new_file::NewFile;
use super::shares::shares;
use super::{Backend, Changes, Engine, Extent, Memory, Properties, Site, identity, parts, resize_in_order};
use crate::claim::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::queue::{CopyMode, Errno};
use crate::report::Reporter;
use engine::OverlayEngine;
use index::{Index, Layer};
use job::Job;
use layers::{FIRST, Kept, Layers, Written};
use queues::Queues;
use snapshot::PATIENCE;
use std::ops::{Range, RangeInclusive};
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bytes: the unit in which people are shown what was written.
const BLOCK: u64 = 4096;

/// See the [module](self).
pub struct Overlay {
    /// The upper, until a queue is served.
    new: NewFile,
    base: Arc<dyn Backend>,
    /// The identity of its content, if no upper says it.
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
    /// Locked while a commit changes the base, and shared by those who read a snapshot meanwhile.
    below: RwLock<()>,
    /// Another process may use the files of the layers.
    away: AtomicBool,
    /// The upper has the name of this server.
    writes: Mutex<bool>,
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
            below: RwLock::default(),
            away: AtomicBool::new(false),
            writes: Mutex::default(),
            reporter: Mutex::default(),
        }
    }

    #[cfg(test)]
    pub(crate) fn max_io(&self) -> u32 {
        self.max_io.load(SeqCst)
    }

    /// The upper has all of the disk: neither the base nor a layer below is read any more.
    fn needs_nothing_below(&self) {
        self.base_size.store(0, SeqCst);
        self.layers.needs_none_below();
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
        let upper = self.layers.written().kept.as_ref().map(|kept| &kept.upper);
        let now = identity_of(&*self.base)?;
        if let Some(upper) = upper.filter(|upper| upper.is_putting())
            && upper.is_put_into(which_file(&*self.base)?, &now)
        {
            return Ok(()); // it was changed by a commit that did not end
        }
        let before = upper.map(|upper| upper.base());
        let before = before.as_ref().unwrap_or(&self.base_name);
        if now == *before {
            return Ok(());
        }
        let message = format!("the base was changed: it was {before}, and is {now}");
        Err(Error::new(ErrorKind::Backend, message).hint("use the base as it was, or create another overlay"))
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
            physical_block: base.physical_block,
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

    fn is_in_files(&self) -> bool {
        self.layers.written().disk.is_in_files()
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
        if !site.is_of_reader() {
            self.begin_to_write()?;
        }
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

    fn snapshot(self: Arc<Self>, name: &str, now: &dyn Fn()) -> Result<()> {
        self.take_snapshot(name, now)
    }

    fn reset(&self) -> Result<()> {
        self.empty()
    }

    fn layers(&self) -> Vec<LayerInfo> {
        let top = self.layers.top();
        (self.layers.lowest()..=top).map(|number| self.layers.of(number).info(number == top)).collect()
    }

    fn written_shares(&self, cell: u64) -> Option<Vec<u8>> {
        let size = self.size();
        let written = |block: u64| {
            let length = BLOCK.min(size - block * BLOCK);
            let (layer, run) = self.index.find(block * BLOCK, length);
            layer != 0 || run < length // some of its sectors are in a layer
        };
        Some(shares(size, cell, BLOCK, written))
    }

    fn flatten(self: Arc<Self>, rate: Option<u64>, given_up: &dyn Fn() -> bool) -> Result<()> {
        self.copy_all(rate, given_up)
    }

    fn flattening(&self) -> Option<FlattenProgress> {
        self.job.progress("flattened")
    }

    fn commit(self: Arc<Self>, how: &Commit<'_>) -> Result<()> {
        self.put_into_base(how)
    }

    fn committing(&self) -> Option<FlattenProgress> {
        self.job.progress("committed")
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
            // The highest first: it says whether the others are still needed.
            for number in (self.layers.lowest()..=self.layers.top()).rev() {
                let Some(kept) = &self.layers.of(number).kept else { continue };
                kept.upper.take_back()?;
                if kept.upper.parent().is_none() && number == self.layers.top() {
                    self.layers.needs_none_below();
                    break;
                }
            }
            // Another server may have written, reset, flattened, committed or resized the disk. What is in memory nobody else
            // has changed.
            if self.layers.written().kept.is_some() {
                if self.layers.written().is_alone() {
                    self.needs_nothing_below();
                }
                self.index.clear();
                self.find_present(self.layers.lowest())?;
            }
            self.size.store(size, Relaxed);
            self.away.store(false, SeqCst);
            self.job.go_on();
        }
        self.check_base_is_the_same()
    }

    /// A commit of another disk may have changed the base before it was claimed.
    fn check_claimed(&self) -> Result<()> {
        self.base.check_claimed()?;
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

    /// A queue is about to serve the disk. The others wait meanwhile: none writes before the upper has the name.
    fn begin_to_write(&self) -> Result<()> {
        let mut writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(kept), false) = (&self.layers.written().kept, *writes) {
            kept.upper.begin_to_write()?;
            *writes = true;
        }
        Ok(())
    }

    fn let_go_of_layers(&self) {
        self.new.remove();
        *self.writes.lock().unwrap_or_else(PoisonError::into_inner) = false;
        if !self.away.swap(true, SeqCst) {
            self.layers.all().filter_map(|layer| layer.kept.as_ref()).for_each(|kept| kept.upper.let_go());
        }
    }
}

/// The identity of a base, as uppers keep it.
fn identity_of(base: &dyn Backend) -> Result<String> {
    base.identity().map(identity::kept)
}

/// Which file has the bytes of a base at their own offsets, if there is one.
fn which_file(base: &dyn Backend) -> Result<Option<u64>> {
    base.plain_file().map(commit::which).transpose()
}

/// A file of a base's data.
fn of_base(place: Place<'_>) -> Place<'_> {
    Place { role: place.role.below_overlay(), ..place }
}
