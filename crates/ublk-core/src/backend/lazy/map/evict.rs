//! Bounded caches: which chunks clients wrote, and the eviction of the others.

use super::format::put;
use super::{BITS_PER_PAGE, Map, span};
use crate::backend::bits::{Bits, at};
use std::io;
use std::ops::Range;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::SeqCst;

/// A failure to write the table of present chunks.
#[derive(Debug)]
pub struct Unfiled {
    pub error: io::Error,
    /// The file is as it was before: the chunks may be present again.
    pub unchanged: bool,
}

impl Map {
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
            put(&kept.on.file, &after, at_byte).inspect_err(|_| {
                let _ = put(&kept.on.file, &before, at_byte); // a part may be written already
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
        let cleared = put(&kept.on.file, &dirty.bytes(word..word + 1), at_byte).is_ok();
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
        put(&kept.on.file, &filed.bytes(range.clone()), at).map_err(|error| {
            let unchanged = put(&kept.on.file, &before, at).is_ok();
            if unchanged {
                filed.restore(range.start, &before); // exactly: some of the chunks had no bit
            }
            Unfiled { error, unchanged }
        })
    }
}
