//! What an upper says of its sectors: the log of the last writes, and the tables that a power failure leaves.

use super::format::{ATOM, BASES, Header, Layout, PAGE, SECTOR, State};
use super::log::{self, Log};
use super::medium::Medium;
use super::{Uuid, tables};
use crate::backend::map_file::{Stamp, is_data_first};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Ranges that a save takes into the tables at once.
const AT_ONCE: usize = 64 << 10;

/// See the [module](super).
pub struct Store<M> {
    medium: M,
    layout: Layout,
    header: Mutex<Header>,
    log: Mutex<Log>,
    /// Entries of the log that are not durably in the tables.
    pending: AtomicU64,
    /// Held during a save.
    saving: Mutex<()>,
    /// A sync has failed: nothing more is saved.
    failed: AtomicBool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<M: Medium> Store<M> {
    /// A new one, in an empty file.
    pub fn create(medium: M, header: Header) -> io::Result<Self> {
        let layout = header.layout;
        medium.cut(0, layout.length(header.size))?;
        medium.write(&header.bytes(), 0)?;
        medium.sync()?;
        Ok(Self::of(medium, header, Log::default()))
    }

    /// As it was left, used from here on at `now`. A reset that did not end is ended.
    pub fn open(medium: M, mut header: Header, now: Stamp) -> io::Result<Self> {
        let layout = header.layout;
        if header.state == State::Resetting {
            end_reset(&medium, &mut header)?;
        }
        let mut log = Log::found(&medium, layout)?;
        if !header.stamp.vouches(&now) || header.state == State::Failed {
            // Before the stamp, which would make them count.
            log::wipe(&medium, layout)?;
            log = Log::default();
        }
        if header.stamp != now || header.state == State::Failed {
            header.stamp = now;
            if header.state == State::Failed {
                (header.state, header.server) = (State::Written, Uuid::new()?);
            }
            medium.write(&header.bytes()[..ATOM], 0)?;
        }
        Ok(Self::of(medium, header, log))
    }

    /// The same without changing it.
    pub fn open_read_only(medium: M, header: Header, now: Stamp) -> io::Result<Self> {
        let vouched = header.stamp.vouches(&now) && header.state != State::Failed;
        let log = if vouched { Log::found(&medium, header.layout)? } else { Log::default() };
        Ok(Self::of(medium, header, log))
    }

    fn of(medium: M, header: Header, log: Log) -> Self {
        Self {
            medium,
            layout: header.layout,
            header: Mutex::new(header),
            pending: AtomicU64::new(log.count()),
            log: Mutex::new(log),
            saving: Mutex::new(()),
            failed: AtomicBool::new(false),
        }
    }

    /// Fails like the last server of the disk, which has [failed](Self::poison).
    pub fn fail(&self) {
        self.failed.store(true, SeqCst);
        let mut header = locked(&self.header);
        header.state = State::Failed;
        let _ = self.medium.write(&header.bytes()[..ATOM], 0); // as `poison`
    }

    /// Another server has used it since.
    pub fn reload(&self, header: Header) -> io::Result<()> {
        let found = Log::found(&self.medium, self.layout)?;
        self.pending.store(found.count(), SeqCst);
        *locked(&self.log) = found;
        *locked(&self.header) = header;
        Ok(())
    }

    pub fn medium(&self) -> &M {
        &self.medium
    }

    pub fn layout(&self) -> Layout {
        self.layout
    }

    pub fn header(&self) -> Header {
        locked(&self.header).clone()
    }

    /// Calls `found` with the ranges that are present, in bytes. A range may come more than once.
    pub fn present(&self, found: &mut dyn FnMut(Range<u64>)) -> io::Result<()> {
        let size = locked(&self.header).size;
        // The log first: a save that ends meanwhile has its entries in the tables.
        let counts = locked(&self.log).counts();
        for (half, count) in counts.into_iter().enumerate() {
            log::each(&self.medium, self.layout, half, count, |range| {
                let range = range.start..range.end.min(size);
                if !range.is_empty() {
                    found(range);
                }
            })?;
        }
        tables::each(&self.medium, self.layout, size, found)
    }

    /// These ranges were written, and are present from here on. Their data is in the page cache. Returns how many entries the
    /// log has.
    pub fn note(&self, ranges: &[Range<u64>]) -> io::Result<u64> {
        if self.failed() {
            return Err(io::Error::from_raw_os_error(libc::EIO)); // the log never counts again
        }
        let mut log = locked(&self.log);
        // Also what was added before a failure.
        let before = log.count();
        let sectors = ranges.iter().map(|range| range.start / SECTOR..range.end.div_ceil(SECTOR));
        let added = log.add(&self.medium, self.layout, sectors);
        self.pending.fetch_add(log.count() - before, SeqCst);
        added.map(|_| log.fresh())
    }

    /// Whether something is present that a power failure would make absent, or was lost.
    pub fn unsaved(&self) -> bool {
        self.pending.load(SeqCst) != 0 || self.failed()
    }

    /// Entries of the log that are not saved.
    #[cfg(test)]
    pub fn pending(&self) -> u64 {
        self.pending.load(SeqCst)
    }

    /// Whether a sync has failed: later saves fail as well.
    pub fn failed(&self) -> bool {
        self.failed.load(SeqCst)
    }

    /// Makes everything durable that was noted until now.
    ///
    /// In this order: the data is synced; the tables are written; they are synced; the half of the log is cleared. So the
    /// tables name only durable data, at every moment and whichever part of them has reached the medium: a bit is only
    /// ever added, and where a page is torn, each of its bits is an old or a new one. A server that is killed before the
    /// half is cleared leaves entries that the tables name already: the next one saves them again, and syncs.
    pub fn save(&self) -> io::Result<()> {
        let _saving = locked(&self.saving);
        if self.failed() {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let cut = {
            let header = locked(&self.header); // a shrink changes it before it cuts the file
            self.medium.length()? < self.layout.length(header.size)
        };
        if cut {
            self.poison();
            return Err(io::Error::other("it was truncated"));
        }
        // What an earlier save left, which did not end, and then what came since.
        let left = locked(&self.log).left();
        if let Some(left) = left {
            self.save_half(left)?;
        }
        let frozen = locked(&self.log).freeze();
        match frozen {
            Some(half) => self.save_half(half),
            None => self.sync(),
        }
    }

    fn save_half(&self, half: usize) -> io::Result<()> {
        let count = locked(&self.log).counts()[half];
        if is_data_first() {
            self.sync()?;
        }
        let (mut ranges, mut told) = (Vec::new(), Ok(()));
        log::each(&self.medium, self.layout, half, count, |range| {
            ranges.push(range);
            if ranges.len() == AT_ONCE && told.is_ok() {
                told = tables::add(&self.medium, self.layout, &mut ranges);
                ranges.clear();
            }
        })?;
        told?;
        tables::add(&self.medium, self.layout, &mut ranges)?;
        self.sync()?;
        log::clear(&self.medium, self.layout, half, count)?;
        self.pending.fetch_sub(locked(&self.log).thawed(half), SeqCst);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.medium.sync().inspect_err(|_| self.poison())
    }

    /// A sync of the data has failed: what was written since the last one may be lost, and the kernel says so only once. From
    /// here on nothing is saved, and the log does not count again: the next server begins with the tables. One that takes over
    /// the disk in this boot fails its flushes, too: no client was told yet that it lost data.
    pub fn poison(&self) {
        if !self.failed.swap(true, SeqCst) {
            let mut header = locked(&self.header);
            // One that is being put into its base is not served, and goes on being that.
            if header.state != State::Committing {
                header.state = State::Failed;
            }
            // If that fails as well, only the next server's first sync can notice.
            let _ = self.medium.write(&header.bytes()[..ATOM], 0);
        }
    }

    /// From here on that server writes. That is durable before what it writes is: a durable write to a sector that is saved
    /// already syncs only its data. What the last server has not saved is not waited for: clients may wait for this.
    pub fn begin_to_write(&self, server: Uuid) -> io::Result<()> {
        let mut header = locked(&self.header);
        let changed = Header { server, ..header.clone() };
        let written = self.medium.write_durably(&changed.bytes()[..ATOM], 0);
        if written.is_ok() {
            *header = changed;
        }
        drop(header);
        written.inspect_err(|_| self.poison())
    }

    /// Changes the header durably.
    pub fn change(&self, change: impl FnOnce(&mut Header)) -> io::Result<()> {
        let mut header = locked(&self.header);
        let mut changed = header.clone();
        change(&mut changed);
        self.medium.write(&changed.bytes()[..ATOM], 0)?;
        let synced = self.medium.sync();
        if synced.is_ok() {
            *header = changed;
        }
        drop(header);
        synced.inspect_err(|_| self.poison()) // which writes the former header
    }

    /// Saves, and says in the header that the layer is never written again.
    pub fn seal(&self) -> io::Result<()> {
        self.save()?;
        self.change(|header| header.state = State::Sealed)
    }

    /// Saves, and says in the header that nothing lies below: all of the disk is present.
    pub fn stand_alone(&self) -> io::Result<()> {
        self.save()?;
        self.change(|header| {
            (header.alone, header.parent) = (true, None);
            (header.into, header.partly, header.put) = (0, 0, false);
        })
    }

    /// From here on the base, which is that file, may be changed where the layers below have data.
    pub fn begin_put(&self, into: u64) -> io::Result<()> {
        self.change(|header| (header.into, header.partly) = (into, 0))
    }

    /// That has ended before it was done, and the base has durably this identity now.
    pub fn pause_put(&self, base: &str) -> io::Result<()> {
        self.change(|header| header.partly = Header::sum_of(base))
    }

    /// The base has durably all that the layers below have, and has this identity now: they are not read any more. The identity
    /// is durable in its second place before the one sector of the header changes that says so.
    pub fn end_put(&self, base: String) -> io::Result<()> {
        let slot = 1 - self.header().slot;
        self.medium.write(base.as_bytes(), BASES[slot] as u64)?;
        self.sync()?;
        self.change(|header| {
            (header.base, header.slot) = (base, slot);
            (header.into, header.partly) = (0, 0);
            header.put = header.parent.is_some();
        })
    }

    /// The files of the layers below are removed.
    pub fn end_removal(&self) -> io::Result<()> {
        self.change(|header| (header.parent, header.put) = (None, false))
    }

    /// Throws away all that was written. Nobody writes meanwhile.
    ///
    /// First the header says so, durably: until then everything is present, and from then on nothing is, since whoever opens
    /// the upper ends the reset before anything else. That one word is in a part of the file that a medium writes as a whole.
    pub fn reset(&self) -> io::Result<()> {
        let _saving = locked(&self.saving);
        if self.failed() {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.change(|header| header.state = State::Resetting)?;
        let mut log = locked(&self.log);
        // After a failure it is unknown what is left: only an open can go on.
        end_reset(&self.medium, &mut locked(&self.header))
            .inspect_err(|_| self.failed.store(true, SeqCst))?;
        *log = Log::default();
        self.pending.store(0, SeqCst);
        Ok(())
    }
}

fn end_reset<M: Medium>(medium: &M, header: &mut Header) -> io::Result<()> {
    medium.cut(PAGE, header.layout.length(header.size))?;
    medium.sync()?;
    header.state = State::Written;
    medium.write(&header.bytes()[..ATOM], 0)?;
    medium.sync()
}
