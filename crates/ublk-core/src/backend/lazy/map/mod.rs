//! Which chunks of a lazy disk are present: bits in memory, and in a file that survives the process and a power failure.
//!
//! The file has a page of header and then two tables of bits, `saved` and `live`.
//!
//! **Order.** A chunk is present for a request only when its data is in the storage *and* its bit is in `live`: first
//! the data is written, then the bit in the file, then the bit in memory. Both writes are in the page cache when the
//! request is answered, and stay there if the process is killed: the next server finds every chunk for which a request
//! was answered. A process that dies between the two leaves data without a bit, which is fetched again.
//!
//! A power failure may keep either of data and `live` without the other, so after a boot `saved` counts, and `live`
//! begins as its copy. `saved` is written by [`Map::save`] alone: it copies the bits, syncs the data, then writes the
//! copied bits to `saved`, then syncs the file. Bits are only ever added to `saved`, so any part of such a write that
//! reaches the medium, even a torn page, names only chunks whose data is durable.
//!
//! `live` is trusted only in the boot, and on the mount of the file system, that it was written in (both are in the
//! header), and never again once a sync has failed: the kernel may have dropped data whose write-back failed, and
//! reports that once. That can affect the chunks that are present but not saved, which are known in memory: see
//! [`Map::forget`].
//!
//! **Bounded caches** evict chunks: bits are removed as well. A third table, `dirty`, says which chunks a client wrote
//! since they were fetched; these are never evicted.
//!
//! - A chunk is in `dirty` before the first write to it begins. A process that is killed between the two leaves a clean
//!   chunk that is not evicted. The other way round, a written chunk could be fetched again, which would undo the write.
//! - A chunk is evicted in this order: its bits in memory, its bit in the file's `live`, then its data. A process that is
//!   killed between leaves data without a bit, which is removed when the map is opened again.
//! - None of this needs a sync, although a power failure may keep any of these writes without the others. While the disk
//!   is served, the file's `saved` names only chunks that were in `dirty` when their data was synced. Those are never
//!   evicted, so none of them can be a hole, and like without a bound, bits are only ever added to that table. If it named
//!   clean chunks too, the medium could keep such a bit after the chunk was evicted, and its hole would be read.
//! - So a power failure costs all clean chunks: they are fetched again. That also undoes writes to them that were not
//!   flushed, of which a client must not see a part now and the old data once the chunk is evicted. A flush makes `dirty`
//!   and `saved` durable together.
//! - When the disk is closed, everything is durable, and `saved` is written with the clean chunks as well. The header says
//!   then that the disk was closed. Opening the map takes both back, durably, before anything is changed. If the power
//!   fails amid that, either the header still says closed, and nothing was changed, or only chunks in both `saved` and
//!   `dirty` count.
//!
//! The file is not mapped, so truncating it cannot crash the process. The tables in memory stay complete, and the next
//! save writes the file again from them.

mod evict;
#[cfg(test)]
pub mod faults;
mod format;
mod open;
mod save;
#[cfg(test)]
mod tests;

use crate::backend::bits::{Bits, at};
use crate::backend::new_file::NewFile;
use crate::claim::{self, Place, Role};
use crate::number::to_usize;
use format::{PAGE, Stamp, put, tables_of};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

const BITS_PER_PAGE: u64 = PAGE as u64 * 8;
/// The longest name of a disk's contents, in bytes.
const MOST_NAME: usize = 1024;

/// Which disk a map belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Of the disk, in bytes.
    pub size: u64,
    /// Of a chunk, in bytes: a power of two.
    pub chunk: u64,
    /// Of what the disk is filled with, such as a URL and a version: at most 1024 bytes.
    pub name: String,
}

/// The state in which the map's storage was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Found {
    /// It was just created: no chunk is present, whatever the map says.
    New,
    /// It holds no data: a map may mark chunks of zeroes as present; without a map nothing is lost.
    Empty,
    /// It holds data, so there has to be a map.
    Used,
}

/// See the [module](self).
pub struct Map {
    size: u64,
    chunk: u64,
    /// Chunks that are present.
    live: Bits,
    /// Chunks that clients wrote, if the cache is bounded.
    dirty: Option<Bits>,
    kept: Option<Kept>,
}

/// The file of a map.
#[derive(Clone)]
pub struct MapFile {
    /// Locked from the moment it is opened, since the map is read then, until the disk is closed.
    file: Arc<File>,
    path: PathBuf,
}

impl MapFile {
    /// Its place; it is locked already.
    pub fn place(&self) -> Place<'_> {
        Place { role: Role::Map, path: &self.path, file: &self.file, writable: true, claimed: false }
    }

    fn lock(&self) -> crate::error::Result<()> {
        claim::keep(&self.path, &self.file).map_err(|error| error.hint("a cache serves one disk at a time"))
    }
}

/// What makes a map outlive the process.
struct Kept {
    /// Until a disk is served with it.
    new: NewFile,
    on: MapFile,
    identity: Identity,
    stamp: Stamp,
    /// Present chunks whose data is durable. They survive a power failure, of a bounded cache if they are dirty.
    saved: Bits,
    /// Chunks that are present, not saved, and written by a client, so that they cannot be fetched again.
    written: Bits,
    /// Written chunks whose data may be lost.
    lost: Bits,
    any_lost: AtomicBool,
    /// The content of the file's table `live`; written with this locked.
    filed: Mutex<Bits>,
    /// By page of the table: whether it has bits that `saved` lacks, or `dirty` some that are not durable.
    unsaved: Box<[AtomicBool]>,
    /// Whether a save is under way, or has failed: its pages are not in `unsaved` any more.
    saving: AtomicBool,
    /// A sync has failed: nothing more is saved.
    failed: AtomicBool,
}

fn chunks(identity: &Identity) -> u64 {
    identity.size.div_ceil(identity.chunk)
}

fn pages(identity: &Identity) -> usize {
    to_usize(chunks(identity).div_ceil(BITS_PER_PAGE))
}

/// The words that hold the bits of some chunks.
fn span(chunks: &[u64]) -> Option<Range<usize>> {
    Some(at(*chunks.iter().min()?)..at(*chunks.iter().max()?) + 1)
}

impl Map {
    /// Of the disk, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Of a chunk, in bytes.
    pub fn chunk(&self) -> u64 {
        self.chunk
    }

    /// Whether it is for a bounded cache.
    pub fn is_bounded(&self) -> bool {
        self.dirty.is_some()
    }

    /// Whether it outlives the process.
    pub fn is_kept(&self) -> bool {
        self.kept.is_some()
    }

    /// Its file, if it has one.
    pub fn home(&self) -> Option<MapFile> {
        self.kept.as_ref().map(|Kept { on, .. }| on.clone())
    }

    /// The disk is closed, or left to another process: unlocks the file, even if this map is still referenced.
    pub fn let_go(&self) {
        if let Some(kept) = &self.kept {
            kept.new.remove();
            claim::let_go(&kept.on.file);
        }
    }

    /// A disk is served with it.
    pub fn begin(&self) {
        if let Some(kept) = &self.kept {
            kept.new.keep();
        }
    }

    /// Whether a chunk is present.
    pub fn has(&self, chunk: u64) -> bool {
        self.live.has(chunk)
    }

    /// Whether all of some chunks are present.
    pub fn has_all(&self, chunks: Range<u64>) -> bool {
        self.live.has_all(chunks)
    }

    /// Whether no loss in the storage can affect these chunks: they are present, and saved if the map has a file.
    pub fn settled_all(&self, chunks: Range<u64>) -> bool {
        self.kept.as_ref().map_or(&self.live, |kept| &kept.saved).has_all(chunks)
    }

    /// Whether a chunk was written by a client or is saved, so that it is never fetched again.
    pub fn is_written(&self, chunk: u64) -> bool {
        self.kept.as_ref().is_none_or(|kept| kept.saved.has(chunk) || kept.written.has(chunk))
    }

    /// A client is about to write to a part of a chunk that is present.
    pub fn write(&self, chunk: u64) {
        if let Some(kept) = &self.kept {
            kept.written.set(chunk);
        }
    }

    /// Whether data written to a chunk may be lost.
    pub fn is_lost(&self, chunk: u64) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.any_lost.load(SeqCst) && kept.lost.has(chunk))
    }

    /// Whether that holds for any chunk.
    pub fn any_lost(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.any_lost.load(SeqCst))
    }

    /// Marks chunks as present in the file; their data is in the storage.
    pub fn file(&self, chunks: &[u64]) -> io::Result<()> {
        let (Some(kept), Some(range)) = (&self.kept, span(chunks)) else { return Ok(()) };
        if self.failed() {
            return Ok(()); // that table is never trusted again
        }
        let filed = kept.filed.lock().unwrap_or_else(PoisonError::into_inner);
        let before = filed.bytes(range.clone());
        chunks.iter().for_each(|chunk| filed.set(*chunk));
        let after = filed.bytes(range.clone());
        if before == after {
            return Ok(());
        }
        let offset = self.table(kept, 1) + range.start as u64 * 8;
        // A part may be written already, which is harmless: it names chunks whose data is there, and before a chunk's data
        // is removed, this part of the table is written again.
        put(&kept.on.file, &after, offset).inspect_err(|_| filed.restore(range.start, &before))
    }

    /// Some chunks are present from here on, for which [`file`](Self::file) was called. `written`: a client wrote them.
    pub fn set(&self, chunks: &[u64], written: bool) {
        for &chunk in chunks {
            if let Some(kept) = &self.kept {
                if written {
                    kept.written.set(chunk);
                }
                kept.lost.clear(chunk);
            }
            self.live.set(chunk);
            if let Some(kept) = &self.kept {
                // After the bit: a save that clears this has seen it.
                kept.unsaved[(chunk / BITS_PER_PAGE) as usize].store(true, SeqCst);
            }
        }
    }

    /// The first chunk from `from` on that is present.
    pub fn next(&self, from: u64) -> Option<u64> {
        self.live.next(from)
    }

    /// How many chunks are present.
    pub fn count(&self) -> u64 {
        self.live.count()
    }

    /// The length of a map's file, in bytes.
    pub fn length_of(identity: &Identity, bounded: bool) -> u64 {
        ((1 + tables_of(bounded) * pages(identity)) * PAGE) as u64
    }

    /// The length of its file, in bytes; 0 without one.
    pub fn length(&self) -> u64 {
        self.kept.as_ref().map_or(0, |kept| self.file_length(kept) as u64)
    }

    fn file_length(&self, kept: &Kept) -> usize {
        PAGE + tables_of(self.dirty.is_some()) * kept.unsaved.len() * PAGE
    }

    /// Where the file has a table: 0 is `saved`, 1 `live`, 2 `dirty`.
    fn table(&self, kept: &Kept, number: usize) -> u64 {
        (PAGE + number * kept.unsaved.len() * PAGE) as u64
    }

    /// Its file, if it has one.
    pub fn path(&self) -> Option<&Path> {
        self.kept.as_ref().map(|kept| &*kept.on.path)
    }
}
