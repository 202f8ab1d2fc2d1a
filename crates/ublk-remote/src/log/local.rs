//! What a volume has on this machine's medium, and a flush that needs no more: the notes are kept short, and what was noted is synced
//! for all requests that wait for it at once.

use super::notes::Notes;
use super::state::Waiter;
use super::volume::{Durable, Volume};
use std::io;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, PoisonError};
use ublk_core::backend::{Readable, Storage};

impl Volume {
    /// Whether the notes are long, and are to be [written anew](Self::shorten_notes).
    pub fn has_long_notes(&self) -> bool {
        self.renewing.load(SeqCst)
    }

    /// Writes the notes anew, if they are long. May block.
    pub fn shorten_notes(&self) {
        if !self.renewing.load(SeqCst) {
            return;
        }
        // Most of it before the notes are locked, so that writes hardly wait.
        let done = self.sync_data().and_then(|()| self.with_files(|| self.renew(&mut self.notes())));
        if let Err(error) = done {
            self.report(format!("the notes of what is not stored cannot be written anew: {error}"));
        }
        self.renewing.store(false, SeqCst);
    }

    /// Writes the notes anew, with what is not stored.
    fn renew(&self, notes: &mut Notes) -> io::Result<()> {
        // Their data may only be in the page cache, and the new file says that it is durable.
        self.sync_data()?;
        let noted = self.state().unstored();
        notes.again(&noted)
    }

    /// All is stored, and durable here: the files say so.
    pub fn close_files(&self) -> io::Result<()> {
        let mut notes = self.notes();
        self.renew(&mut notes)?;
        self.index.close()
    }

    /// Tells the waiter when all that was written before is durable.
    pub fn flush(self: &Arc<Self>, waiter: Waiter, handle: &tokio::runtime::Handle) {
        match self.tuning.durable {
            Durable::Object => self.flush_to_store(waiter),
            Durable::Local => self.flush_here(waiter, handle),
        }
    }

    /// Tells the waiter when all that was written before is in the store.
    pub fn flush_to_store(&self, waiter: Waiter) {
        let mut state = self.state();
        let order = state.seal();
        let told = state.wait_until_stored(order, waiter);
        drop(state);
        match told {
            Some((waiter, result)) => waiter(result),
            None => self.work.notify_one(),
        }
    }

    fn flush_here(self: &Arc<Self>, waiter: Waiter, handle: &tokio::runtime::Handle) {
        if let Some(errno) = self.state().stopped() {
            return waiter(-errno);
        }
        let mut syncs = self.syncs.lock().unwrap_or_else(PoisonError::into_inner);
        syncs.0.push(waiter);
        if !std::mem::replace(&mut syncs.1, true) {
            let volume = self.clone();
            handle.spawn_blocking(move || volume.sync_all());
        }
    }

    /// Syncs for all who wait, until nobody does.
    fn sync_all(&self) {
        loop {
            let mut syncs = self.syncs.lock().unwrap_or_else(PoisonError::into_inner);
            let waiters = std::mem::take(&mut syncs.0);
            if waiters.is_empty() {
                syncs.1 = false;
                return;
            }
            drop(syncs);
            let result =
                self.sync_here().map_or_else(|error| -error.raw_os_error().unwrap_or(libc::EIO), |()| 0);
            waiters.into_iter().for_each(|waiter| waiter(result));
        }
    }

    /// Syncs the local file. The kernel reports a failed write-back once, so a failure is remembered.
    fn sync_data(&self) -> io::Result<()> {
        self.data.sync().inspect_err(|_| self.broken.store(true, SeqCst))
    }

    /// All that was noted before is durable on this machine.
    fn sync_here(&self) -> io::Result<()> {
        if self.broken.load(SeqCst) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        // The data of notes that come meanwhile may not be part of the sync.
        let then = self.notes().now();
        let synced = self.sync_data().and_then(|()| {
            let mut notes = self.notes();
            notes.mark(then)?;
            let file = notes.file();
            drop(notes);
            file?.sync_data()
        });
        if let Err(error) = &synced {
            self.broken.store(true, SeqCst);
            self.report(format!(
                "what was written could not be made durable here: {error}; no flush succeeds any more"
            ));
        }
        synced
    }

    /// Reads from the local file; stops the disk if that has lost something. May block.
    pub fn load(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.data.load(offset, &mut bytes)?;
        // The kernel drops pages that it could not write back, and reports that once: what is read from now on may be what was there
        // before.
        self.data.intact().inspect_err(|error| {
            self.stop(
                libc::EIO,
                format!("the cache could not be written to its medium: {error}; the disk has stopped"),
            );
        })?;
        Ok(bytes)
    }
}
