//! Makes a map durable, and gives up what is lost when that fails.

use super::format::{PAGE, Stamp, WORDS_PER_PAGE, both, header, words, write_all};
use super::{Kept, Map};
use crate::backend::map_file::{allocate, is_data_first};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::SeqCst;

impl Map {
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
        let cut = kept.on.file.metadata()?.len() != self.file_length(kept) as u64;
        // Bits that come from here on are the next save's: their data may not be part of this sync.
        let pages: Vec<_> = (0..kept.unsaved.len())
            .filter(|&page| kept.unsaved[page].swap(false, SeqCst) || cut)
            .map(|page| (page, self.live.bytes(words(page))))
            .collect();
        let mut sync = Some(sync);
        if is_data_first()
            && let Some(sync) = sync.take()
        {
            sync()?;
        }
        if cut {
            self.write_again(kept)?;
        }
        for (page, bits) in &pages {
            // Lost chunks must not be saved, but the rest of the page can be; there are none unless a sync failed.
            let at = (PAGE + page * PAGE) as u64;
            match &self.dirty {
                None => kept.on.file.write_all_at(bits, at)?,
                Some(dirty) => {
                    let filed = kept.filed.lock().unwrap_or_else(PoisonError::into_inner);
                    let marked = both(bits, &dirty.bytes(words(*page)));
                    drop(filed);
                    kept.on.file.write_all_at(&marked, at)?;
                }
            }
        }
        if !pages.is_empty() {
            kept.on.file.sync_data()?;
        }
        if let Some(sync) = sync {
            sync()?;
        }
        publish(&|| pages.iter().for_each(|(page, bits)| kept.saved.fill(page * WORDS_PER_PAGE, bits)))?;
        Ok(cut)
    }

    /// Writes header and `live` into a file that was truncated.
    fn write_again(&self, kept: &Kept) -> io::Result<()> {
        let filed = kept.filed.lock().unwrap_or_else(PoisonError::into_inner);
        let tables = kept.unsaved.len() * PAGE;
        allocate(&kept.on.file, self.file_length(kept))?;
        kept.on.file.set_len(self.file_length(kept) as u64)?;
        kept.on.file.write_all_at(&filed.bytes(0..filed.words()), (PAGE + tables) as u64)?;
        if let Some(dirty) = &self.dirty {
            write_all(&kept.on.file, PAGE + 2 * tables, dirty)?;
        }
        kept.on.file.write_all_at(&header(&kept.identity, self.dirty.is_some(), &kept.stamp), 0)
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
            told = kept.on.file.write_all_at(&header(&kept.identity, self.dirty.is_some(), &Stamp::NEVER), 0);
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

    /// The disk is closed, and everything is saved: the file says so, which makes all of it count after a boot.
    pub fn seal(&self) -> io::Result<()> {
        match &self.kept {
            Some(kept) if self.dirty.is_some() && !self.failed() && !self.unsaved() => {
                write_all(&kept.on.file, PAGE, &kept.saved)?;
                let mut stamp = kept.stamp;
                stamp.closed = true;
                kept.on.file.write_all_at(&header(&kept.identity, true, &stamp), 0)?;
                kept.on.file.sync_data()
            }
            _ => Ok(()),
        }
    }
}
