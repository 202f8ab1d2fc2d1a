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

#[cfg(test)]
pub mod faults;
mod format;
#[cfg(test)]
mod tests;

use super::bits::{Bits, at};
use crate::backend::map_file::{allocate, blank, sync_parent};
use crate::claim::{self, Place, Role};
use crate::error::{Error, ErrorKind, Result};
use crate::number::to_usize;
use format::{
    PAGE, Stamp, WORDS_PER_PAGE, both, check, header, put, read, tables_of, words, write, write_all,
    write_both,
};
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};

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

/// A failure to write the table of present chunks.
#[derive(Debug)]
pub struct Unfiled {
    pub error: io::Error,
    /// The file is as it was before: the chunks may be present again.
    pub unchanged: bool,
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

/// What makes a map outlive the process.
struct Kept {
    /// Locked from the moment it is opened, since the map is read then, until the disk is closed.
    file: File,
    path: PathBuf,
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

fn bits(bytes: usize) -> Result<Bits> {
    Bits::new(bytes).map_err(|error| Error::system("cannot map memory for the chunks' map", &error))
}

impl Map {
    /// A map in memory, in which every chunk is missing.
    pub fn volatile(size: u64, chunk: u64) -> Result<Self> {
        let identity = Identity { size, chunk, name: String::new() };
        Ok(Self { size, chunk, live: bits(pages(&identity).max(1) * PAGE)?, dirty: None, kept: None })
    }

    /// The same for a bounded cache.
    pub fn volatile_bounded(size: u64, chunk: u64) -> Result<Self> {
        let map = Self::volatile(size, chunk)?;
        Ok(Self { dirty: Some(bits(map.live.words() * 8)?), ..map })
    }

    /// The map in a file of its own, which is created if it does not exist. `found`: the state of its storage.
    pub fn open(path: &Path, identity: &Identity, found: Found) -> Result<Self> {
        Self::open_as(path, identity, found, false)
    }

    /// The same for a bounded cache.
    pub fn open_bounded(path: &Path, identity: &Identity, found: Found) -> Result<Self> {
        Self::open_as(path, identity, found, true)
    }

    fn open_as(path: &Path, identity: &Identity, found: Found, bounded: bool) -> Result<Self> {
        let name = path.display();
        if identity.name.len() > MOST_NAME {
            return Err(Error::invalid(format!("the identity is longer than {MOST_NAME} bytes")));
        }
        let system = |error: io::Error| {
            Error::system(format!("cannot use the map {name}"), &error).kind(ErrorKind::Backend)
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NONBLOCK) // do not wait for a FIFO's writer
            .open(path)
            .map_err(system)?;
        if !file.metadata().map_err(system)?.is_file() {
            return Err(Error::new(ErrorKind::Backend, format!("the map {name} is no regular file")));
        }
        claim::keep(path, &file).map_err(|error| error.hint("a cache serves one disk at a time"))?;
        let tables = pages(identity) * PAGE;
        let (live, saved, dirty) = (bits(tables)?, bits(tables)?, bits(tables)?);
        let stamp = Stamp::now(&file).map_err(system)?;
        let length = PAGE + tables_of(bounded) * tables;
        if found == Found::New || blank(&file, length).map_err(system)? {
            if found == Found::Used {
                return Err(Error::new(
                    ErrorKind::Backend,
                    format!("the map {name} is empty, but its cache is not"),
                )
                .hint("it says what the cache holds, which may be written data: restore it, or use another cache"));
            }
            file.set_len(0).map_err(system)?;
            allocate(&file, length).map_err(system)?;
            file.write_all_at(&header(identity, bounded, &stamp), 0).map_err(system)?;
            // A map that is lost with the power would have what was written to the disk fetched over.
            file.sync_all().and_then(|()| sync_parent(path)).map_err(system)?;
        } else {
            let before = check(&file, path, identity, bounded, tables)?;
            // Whatever the file says of chunks that the disk does not have.
            let read = |at, table: &Bits| {
                read(&file, at, table).map(|()| table.truncate(chunks(identity))).map_err(system)
            };
            read(PAGE, &saved)?;
            if bounded {
                read(PAGE + 2 * tables, &dirty)?;
            }
            let vouched = before.vouches(&stamp);
            if bounded && !vouched && !before.closed {
                saved.keep(&dirty);
            }
            if !bounded {
                // An earlier process may have been killed before it synced the file.
                write(&file, PAGE, &saved).and_then(|()| file.sync_data()).map_err(system)?;
            }
            if vouched {
                read(PAGE + tables, &live)?;
            } else {
                // The table before the header: it is not trusted until the header is written.
                write_all(&file, PAGE + tables, &saved).map_err(system)?;
            }
            if before != stamp {
                file.write_all_at(&header(identity, bounded, &stamp), 0).map_err(system)?;
            }
        }
        let (written, lost, filed, loose) = (bits(tables)?, bits(tables)?, bits(tables)?, bits(tables)?);
        for word in 0..live.words() {
            let (saved, live) = (saved.word(word).load(SeqCst), &live.word(word));
            if saved != 0 {
                live.fetch_or(saved, SeqCst); // else its memory stays untouched
            }
            let live = live.load(SeqCst);
            if live != 0 {
                filed.word(word).store(live, SeqCst);
                // Without a bound it was not recorded which of these chunks a client wrote.
                let wrote = if bounded { dirty.word(word).load(SeqCst) } else { u64::MAX };
                written.word(word).store(live & !saved & wrote, SeqCst);
                loose.word(word).store(live & !saved, SeqCst);
            }
        }
        if bounded {
            dirty.keep(&live); // a write to a chunk that is missing did not happen
            write_all(&file, PAGE + 2 * tables, &dirty)
                .and_then(|()| write_both(&file, PAGE, &saved, &dirty))
                .and_then(|()| file.sync_data()) // chunks are evicted from here on
                .map_err(system)?;
        }
        let unsaved = (0..tables / PAGE)
            .map(|page| AtomicBool::new(words(page).any(|word| loose.word(word).load(SeqCst) != 0)))
            .collect();
        let kept = Kept {
            file,
            path: path.to_owned(),
            identity: identity.clone(),
            stamp,
            saved,
            written,
            lost,
            any_lost: AtomicBool::new(false),
            filed: Mutex::new(filed),
            unsaved,
            saving: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        };
        let dirty = bounded.then_some(dirty);
        Ok(Self { size: identity.size, chunk: identity.chunk, live, dirty, kept: Some(kept) })
    }

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

    /// Its file, if it has one, which is locked already.
    pub fn place(&self) -> Option<Place<'_>> {
        let Kept { file, path, .. } = self.kept.as_ref()?;
        Some(Place { role: Role::Map, path, file, writable: true, claimed: false })
    }

    /// The disk is closed: unlocks the file for another disk, even if this map is still referenced.
    pub fn let_go(&self) {
        if let Some(kept) = &self.kept {
            claim::let_go(&kept.file);
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
        put(&kept.file, &after, offset).inspect_err(|_| filed.restore(range.start, &before))
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

    /// Whether a write may begin: these chunks are marked as written, or nobody has to know.
    pub fn dirty_all(&self, chunks: Range<u64>) -> bool {
        self.dirty.as_ref().is_none_or(|dirty| dirty.has_all(chunks))
    }

    /// Whether a client has written to a chunk since it was fetched. Only a bounded cache knows.
    pub fn is_dirty(&self, chunk: u64) -> bool {
        self.dirty.as_ref().is_some_and(|dirty| dirty.has(chunk))
    }

    /// How many chunks that holds for.
    pub fn count_dirty(&self) -> Option<u64> {
        self.dirty.as_ref().map(Bits::count)
    }

    /// Clients are about to write to these chunks. Marked by one thread at a time.
    pub fn mark_dirty(&self, chunks: &[u64]) -> io::Result<()> {
        let (Some(dirty), Some(range)) = (&self.dirty, span(chunks)) else { return Ok(()) };
        let Some(kept) = &self.kept else {
            chunks.iter().for_each(|chunk| dirty.set(*chunk));
            return Ok(());
        };
        let _filed = kept.filed.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.failed() {
            let (before, at_byte) =
                (dirty.bytes(range.clone()), self.table(kept, 2) + range.start as u64 * 8);
            let mut after = before.clone();
            for chunk in chunks {
                let word = &mut after[(at(*chunk) - range.start) * 8..][..8];
                let bits = (&*word).try_into().map_or(0, u64::from_ne_bytes) | 1 << (chunk % 64);
                word.copy_from_slice(&bits.to_ne_bytes());
            }
            put(&kept.file, &after, at_byte).inspect_err(|_| {
                let _ = put(&kept.file, &before, at_byte); // a part may be written already
            })?;
        }
        for &chunk in chunks {
            // Before the bit: another client that sees it may write and flush at once, and the flush has to find this. A save
            // that clears this sees the bit, since it looks with the table locked.
            kept.unsaved[(chunk / BITS_PER_PAGE) as usize].store(true, SeqCst);
            dirty.set(chunk);
        }
        Ok(())
    }

    /// A write that was to be the first to a chunk did not happen, and the chunk is missing. Returns whether it counts as
    /// clean again.
    pub fn clear_dirty(&self, chunk: u64) -> bool {
        let Some(dirty) = &self.dirty else { return true };
        let Some(kept) = &self.kept else {
            dirty.clear(chunk);
            return true;
        };
        let _filed = kept.filed.lock().unwrap_or_else(PoisonError::into_inner);
        dirty.clear(chunk);
        let (word, at_byte) = (at(chunk), self.table(kept, 2) + at(chunk) as u64 * 8);
        let cleared = put(&kept.file, &dirty.bytes(word..word + 1), at_byte).is_ok();
        if !cleared {
            dirty.set(chunk);
        }
        cleared
    }

    /// A chunk that is not dirty is missing from here on, in memory. Returns whether it was saved.
    pub fn withdraw(&self, chunk: u64) -> bool {
        let saved = self.kept.as_ref().is_some_and(|kept| {
            let saved = kept.saved.has(chunk);
            kept.saved.clear(chunk);
            saved
        });
        self.live.clear(chunk);
        saved
    }

    /// It is present after all: its data is still there.
    pub fn restore(&self, chunk: u64, saved: bool) {
        if let Some(kept) = self.kept.as_ref().filter(|_| saved) {
            kept.saved.set(chunk);
        }
        self.live.set(chunk);
    }

    /// Sorted chunks, by page of the file's tables.
    pub fn by_page(chunks: &[u64]) -> impl Iterator<Item = &[u64]> {
        chunks.chunk_by(|one, next| one / BITS_PER_PAGE == next / BITS_PER_PAGE)
    }

    /// Some clean chunks of one [page](Self::by_page), which are missing in memory, are missing in the file: their data may
    /// be removed.
    ///
    /// After a failure any part of the write may be in the file, so it is written back. Otherwise a chunk that is present
    /// again could lack its bit: a client's write to it would be answered, and forgotten if the process is killed. If the
    /// file cannot be written back either, the chunks have to stay missing, with their data: a bit that is still in the
    /// file names data that is there.
    pub fn unfile(&self, chunks: &[u64]) -> std::result::Result<(), Unfiled> {
        let (Some(kept), Some(range)) = (&self.kept, span(chunks)) else { return Ok(()) };
        let filed = kept.filed.lock().unwrap_or_else(PoisonError::into_inner);
        let before = filed.bytes(range.clone());
        chunks.iter().for_each(|chunk| filed.clear(*chunk));
        let at = self.table(kept, 1) + range.start as u64 * 8;
        put(&kept.file, &filed.bytes(range.clone()), at).map_err(|error| {
            let unchanged = put(&kept.file, &before, at).is_ok();
            if unchanged {
                filed.restore(range.start, &before); // exactly: some of the chunks had no bit
            }
            Unfiled { error, unchanged }
        })
    }

    /// The disk is closed, and everything is saved: the file says so, which makes all of it count after a boot.
    pub fn seal(&self) -> io::Result<()> {
        match &self.kept {
            Some(kept) if self.dirty.is_some() && !self.failed() && !self.unsaved() => {
                write_all(&kept.file, PAGE, &kept.saved)?;
                let mut stamp = kept.stamp;
                stamp.closed = true;
                kept.file.write_all_at(&header(&kept.identity, true, &stamp), 0)?;
                kept.file.sync_data()
            }
            _ => Ok(()),
        }
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

    /// Whether it has chunks that it would have lost after a power failure.
    pub fn unsaved(&self) -> bool {
        // In this order: a save is under way before it cleans anything.
        self.kept
            .as_ref()
            .is_some_and(|kept| kept.unsaved.iter().any(|page| page.load(SeqCst)) || kept.saving.load(SeqCst))
    }

    /// Whether a sync has failed: later flushes make nothing durable.
    pub fn failed(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.failed.load(SeqCst))
    }

    /// Makes the bits of present chunks durable, after `sync` has made their data durable; then passes `publish` the
    /// update of the bits in memory. One thread at a time. If it fails, see [`forget`](Self::forget). Returns whether
    /// the file had been truncated and was written again.
    pub fn save(
        &self,
        sync: impl FnOnce() -> io::Result<()>,
        publish: impl FnOnce(&dyn Fn()) -> io::Result<()>,
    ) -> io::Result<bool> {
        let Some(kept) = &self.kept else { return sync().map(|()| false) };
        if self.failed() {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        kept.saving.store(true, SeqCst);
        let cut = self.save_pages(kept, sync, publish)?;
        // Only now: after a failure there is something unsaved at least until `forget` has recorded it. A flush that saw
        // neither that nor the failure would succeed.
        kept.saving.store(false, SeqCst);
        Ok(cut)
    }

    fn save_pages(
        &self,
        kept: &Kept,
        sync: impl FnOnce() -> io::Result<()>,
        publish: impl FnOnce(&dyn Fn()) -> io::Result<()>,
    ) -> io::Result<bool> {
        let cut = kept.file.metadata()?.len() != self.file_length(kept) as u64;
        // Bits that come from here on are the next save's: their data may not be part of this sync.
        let pages: Vec<_> = (0..kept.unsaved.len())
            .filter(|&page| kept.unsaved[page].swap(false, SeqCst) || cut)
            .map(|page| (page, self.live.bytes(words(page))))
            .collect();
        sync()?;
        if cut {
            self.write_again(kept)?;
        }
        for (page, bits) in &pages {
            // Lost chunks must not be saved, but the rest of the page can be; there are none unless a sync failed.
            let at = (PAGE + page * PAGE) as u64;
            match &self.dirty {
                None => kept.file.write_all_at(bits, at)?,
                Some(dirty) => {
                    let filed = kept.filed.lock().unwrap_or_else(PoisonError::into_inner);
                    let marked = both(bits, &dirty.bytes(words(*page)));
                    drop(filed);
                    kept.file.write_all_at(&marked, at)?;
                }
            }
        }
        if !pages.is_empty() {
            kept.file.sync_data()?;
        }
        publish(&|| pages.iter().for_each(|(page, bits)| kept.saved.fill(page * WORDS_PER_PAGE, bits)))?;
        Ok(cut)
    }

    /// Writes header and `live` into a file that was truncated.
    fn write_again(&self, kept: &Kept) -> io::Result<()> {
        let filed = kept.filed.lock().unwrap_or_else(PoisonError::into_inner);
        let tables = kept.unsaved.len() * PAGE;
        allocate(&kept.file, self.file_length(kept))?;
        kept.file.set_len(self.file_length(kept) as u64)?;
        kept.file.write_all_at(&filed.bytes(0..filed.words()), (PAGE + tables) as u64)?;
        if let Some(dirty) = &self.dirty {
            write_all(&kept.file, PAGE + 2 * tables, dirty)?;
        }
        kept.file.write_all_at(&header(&kept.identity, self.dirty.is_some(), &kept.stamp), 0)
    }

    /// A sync or write-back has failed: chunks that are present but not saved may be gone. Those that were only fetched
    /// are missing again; those that clients wrote are lost. From here on nothing is saved, and the file's `live` is
    /// not trusted again: the next server begins with the saved chunks. On an error the file could not be changed, and
    /// `live` may still be trusted.
    /// `forgotten` is called with each chunk that is missing from here on.
    pub fn forget(&self, mut forgotten: impl FnMut(u64)) -> io::Result<()> {
        let Some(kept) = &self.kept else { return Ok(()) };
        let mut told = Ok(());
        if !kept.failed.swap(true, SeqCst) {
            // With the table locked, so that no thread is writing to it.
            let _filed = kept.filed.lock().unwrap_or_else(PoisonError::into_inner);
            told = kept.file.write_all_at(&header(&kept.identity, self.dirty.is_some(), &Stamp::NEVER), 0);
        }
        for word in 0..self.live.words() {
            let unsaved = self.live.word(word).load(SeqCst) & !kept.saved.word(word).load(SeqCst);
            if unsaved == 0 {
                continue;
            }
            let written = unsaved & kept.written.word(word).load(SeqCst);
            if written != 0 {
                kept.any_lost.store(true, SeqCst);
                kept.lost.word(word).fetch_or(written, SeqCst);
            }
            let missing = unsaved & !written;
            self.live.word(word).fetch_and(!missing, SeqCst);
            (0..64).filter(|bit| missing & 1 << bit != 0).for_each(|bit| forgotten(word as u64 * 64 + bit));
        }
        told
    }

    /// Its file, if it has one.
    pub fn path(&self) -> Option<&Path> {
        self.kept.as_ref().map(|kept| &*kept.path)
    }
}
