//! A disk that reads from a *base*, which is never written to, what was not written yet, and keeps what is written in an
//! *upper*: a sparse file with a map of its own, or memory. Several overlays can share a base, and its page cache.
//!
//! Every piece goes to the disk below that has its data, so nothing is copied: a write of one sector moves one sector. The
//! [`index`] in memory says which layer has a sector. A discarded sector is in the upper, as a hole.
//!
//! The order of a write: its data, the note in the upper's file, the index, the answer. The notes of all writes that end in
//! a queue's turn are one system call. So a read finds a sector in the
//! upper only when its data is there, and so does the next server if this one is killed. What a flush makes durable, and
//! in which order, is the upper's: see [`upper`].

mod engine;
mod index;
#[cfg(test)]
mod tests;
mod upper;

pub use upper::{Parent, Saved, Shape, Upper, Uuid};

use super::{Backend, Engine, Extent, File, Memory, Piece, Properties, Site, parts};
use crate::claim::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::queue::{CopyMode, Errno};
use engine::OverlayEngine;
use index::{Index, Layer};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

/// The number of the upper among the layers.
const UPPER: Layer = 1;

/// See the [module](self).
pub struct Overlay {
    base: Arc<dyn Backend>,
    /// The bytes of the base.
    base_size: u64,
    upper: Arc<dyn Backend>,
    /// Where the disk's first byte is in the upper.
    start: u64,
    index: Index,
    size: AtomicU64,
    /// The file of the upper, if that is not memory.
    kept: Option<Kept>,
}

/// What an upper in a file has beside the data.
struct Kept {
    upper: Upper,
    /// A durable write or a flush has failed: the next flush saves, even if nothing is noted.
    suspect: AtomicBool,
    /// Another process may use the file.
    away: AtomicBool,
}

impl Overlay {
    /// A disk of `size` bytes, by default as large as `base`, whose writes go to memory. Beyond the base it reads as zeroes.
    pub fn in_memory(base: Arc<dyn Backend>, size: Option<u64>) -> Result<Self> {
        let size = size.unwrap_or(base.properties().size);
        Self::with_upper(base, Arc::new(Memory::new(size)?), size)
    }

    /// The same with an empty upper, at least as large.
    pub(super) fn with_upper(base: Arc<dyn Backend>, upper: Arc<dyn Backend>, size: u64) -> Result<Self> {
        let base_size = Self::check_base(&*base)?;
        let (index, size) = (Index::new(), AtomicU64::new(size));
        Ok(Self { base, base_size, upper, start: 0, index, size, kept: None })
    }

    /// A disk whose writes go to the upper in a file, which is created if it does not exist. Its size is by default that of
    /// the upper, or of the base for a new one. `read_only`: the upper exists, and is shared with others that only read it.
    pub fn in_file(base: Arc<dyn Backend>, path: &Path, size: Option<u64>, read_only: bool) -> Result<Self> {
        let base_size = Self::check_base(&*base)?;
        let (block_size, name) = (base.properties().block_size, base.identity()?);
        let shape = |size| Shape { size, block_size, base: &name, parent: None };
        let upper = if path.symlink_metadata().is_ok() {
            let size = size.map_or_else(|| Upper::size_at(path), Ok)?;
            Upper::open(path, &shape(size), read_only)?
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
            Upper::create(path, &shape(size))?
        };
        if upper.parent().is_some() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("the upper {} was made over a snapshot", path.display()),
            )
            .hint("use a version that has snapshots"));
        }
        let index = Index::new();
        upper.present(&mut |range| index.mark(range, UPPER))?;
        let file = upper.file().try_clone().map_err(|error| {
            Error::system(format!("cannot use {}", path.display()), &error).kind(ErrorKind::Backend)
        })?;
        Ok(Self {
            base,
            base_size,
            upper: Arc::new(File::of(file, path, read_only)?),
            start: upper.data_offset(),
            index,
            size: AtomicU64::new(upper.size()),
            kept: Some(Kept { upper, suspect: AtomicBool::new(false), away: AtomicBool::new(false) }),
        })
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
        match self.base_size.checked_sub(offset) {
            _ if layer != 0 => (layer, run),
            // Nothing was written there: it is a hole of the upper.
            None | Some(0) => (UPPER, run),
            Some(left) => (0, run.min(left)),
        }
    }

    /// A piece in the coordinates of a layer.
    #[inline]
    fn in_layer(&self, layer: usize, piece: Piece) -> Piece {
        if layer == 0 { piece } else { piece.to(self.start + piece.offset) }
    }

    /// The upper has the data of these ranges from here on.
    fn mark(&self, ranges: &[Range<u64>]) -> std::result::Result<(), Errno> {
        if let Some(kept) = &self.kept {
            kept.upper.note_all(ranges)?;
        }
        for range in ranges {
            self.index.mark(range.clone(), UPPER);
        }
        Ok(())
    }

    /// Makes the added bytes read as zeroes, also where the base has data: the upper has a hole there.
    fn hide_base(&self, added: Range<u64>) -> Result<()> {
        let range = added.start..added.end.min(self.base_size);
        if range.is_empty() {
            return Ok(());
        }
        self.mark(&[range]).map_err(|errno| {
            let error = std::io::Error::from_raw_os_error(errno);
            Error::system("cannot record the disk's new size", &error).kind(ErrorKind::Backend)
        })?;
        // Before the file has the new size: a disk that grew does not show its base.
        self.kept.as_ref().map_or(Ok(()), |kept| kept.upper.save())
    }

    fn change_size(&self, from: u64, to: u64) -> Result<()> {
        if let Some(Kept { upper, .. }) = &self.kept
            && to > upper.capacity()
        {
            return upper.resize(to); // it refuses that
        }
        let kept = |to| self.kept.as_ref().map_or(Ok(()), |kept| kept.upper.resize(to));
        if to < from {
            kept(to)?; // never longer than its file
            return self.upper.resize(self.start + from, self.start + to);
        }
        self.upper.resize(self.start + from, self.start + to)?;
        self.hide_base(from..to)?;
        kept(to)
    }
}

impl Backend for Overlay {
    fn properties(&self) -> Properties {
        let (base, upper) = (self.base.properties(), self.upper.properties());
        let both = parts::together(&[self.base.clone(), self.upper.clone()], self.size());
        Properties {
            write_cache: upper.write_cache,
            discard: upper.discard,
            chunk: base.chunk,
            optimal_io: base.optimal_io,
            ..both
        }
    }

    fn copy_modes(&self) -> Vec<CopyMode> {
        parts::copy_modes(&[self.base.clone(), self.upper.clone()])
    }

    fn places(&self) -> Vec<Place<'_>> {
        let base = self.base.places().into_iter().map(of_base);
        base.chain(self.kept.as_ref().map(|kept| kept.upper.place())).collect()
    }

    fn extents(&self, part: Range<u64>) -> Vec<Extent<'_>> {
        let in_base = part.start.min(self.base_size)..part.end.min(self.base_size);
        let base = if in_base.is_empty() { Vec::new() } else { self.base.extents(in_base) };
        let base = base.into_iter().map(|extent| Extent { place: of_base(extent.place), ..extent });
        let upper = self.kept.as_ref().map(|kept| Extent {
            place: kept.upper.place(),
            range: self.start + part.start..self.start + part.end,
        });
        base.chain(upper).collect()
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
        Ok(Box::new(OverlayEngine::new(self, site)?))
    }

    fn resize(&self, from: u64, to: u64) -> Result<()> {
        if to < from {
            self.size.store(to, Relaxed);
        }
        self.change_size(from, to).inspect_err(|_| self.size.store(from, Relaxed))?;
        self.size.store(to, Relaxed);
        Ok(())
    }

    fn let_go(&self) {
        if let Some(Kept { upper, away, .. }) = &self.kept {
            // What is noted and not saved is in the file.
            upper.let_go();
            away.store(true, SeqCst);
        }
        self.base.let_go();
    }

    fn take_back(&self) -> Result<()> {
        self.base.take_back()?;
        let Some(Kept { upper, away, .. }) = &self.kept else { return Ok(()) };
        if away.load(SeqCst) {
            upper.take_back()?;
            // Another server may have written, or resized the disk.
            upper.present(&mut |range| self.index.mark(range, UPPER))?;
            self.size.store(upper.size(), Relaxed);
            away.store(false, SeqCst);
        }
        Ok(())
    }

    fn close(&self) -> Result<()> {
        let saved = self.kept.as_ref().map_or(Ok(()), Kept::close);
        saved.and(self.base.close())
    }
}

impl Kept {
    fn close(&self) -> Result<()> {
        if self.away.load(SeqCst) {
            return Ok(());
        }
        // What is noted counts only until the next boot.
        let saved = if self.upper.unsaved() { self.upper.save() } else { Ok(()) };
        self.upper.let_go();
        saved
    }

    /// Whether a flush of the data is not enough.
    fn needs_save(&self) -> bool {
        self.upper.unsaved() || self.suspect.swap(false, SeqCst)
    }

    /// A flush or a durable write has failed: data that was written may be lost, and no map may count it as saved.
    ///
    /// Other errors than EIO are those of the request itself, such as a full file system. But a sync may have failed before:
    /// the kernel reports that once to each open file. The upper has its own, so its next save finds out.
    fn sync_failed(&self, errno: Errno) {
        if errno == libc::EIO {
            self.upper.poison();
        }
        self.suspect.store(true, SeqCst);
    }
}

/// A file of a base's data.
fn of_base(place: Place<'_>) -> Place<'_> {
    Place { role: place.role.below_overlay(), ..place }
}
