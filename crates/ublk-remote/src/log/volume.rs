//! A volume that this process serves: its state, its local files and its store, and what is done with all of them together.

use super::format::{BLOCK, Kind};
use super::index::Index;
use super::notes::{Note, Notes};
use super::origins::{Opener, Origins};
use super::state::{Found, Pin, Refused, State, Waiter, Way, Writing};
use super::upload::Way as Call;
use crate::store::Store;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use ublk_core::Reporter;
use ublk_core::backend::File;

/// What a flush promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durable {
    /// All that was written before is in the store.
    #[default]
    Object,
    /// It is on this machine's medium. What a lost machine leaves in the store is a prefix of what was written.
    Local,
}

/// How a volume is served.
#[derive(Debug, Clone)]
pub struct Tuning {
    /// What a flush promises.
    pub durable: Durable,
    /// How long what was written may wait for more before it is stored, if nobody flushes.
    pub delay: Duration,
    /// How many segments are stored at a time.
    pub sends: usize,
    /// How long a read waits for the store.
    pub patience: Duration,
    /// Blocks that are stored before the map is.
    pub map_blocks: u64,
    /// Segments that are stored before the map is.
    pub map_segments: u32,
    /// How long what was stored can still be opened as it was then.
    pub retain: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            durable: Durable::Object,
            delay: Duration::from_secs(1),
            sends: 8,
            patience: Duration::from_secs(60),
            map_blocks: (1 << 30) / BLOCK,
            map_segments: 256,
            retain: Duration::ZERO,
        }
    }
}

/// What was counted since the volume was opened.
#[derive(Debug, Default)]
pub struct Counts {
    /// Bytes that clients wrote.
    pub written: AtomicU64,
    /// Segments stored.
    pub segments: AtomicU64,
    /// Chunks that were asked of the store.
    pub misses: AtomicU64,
    /// Calls of the store that failed.
    pub failures: AtomicU64,
    /// Blocks that were moved out of segments with little in them.
    pub moved: AtomicU64,
    /// Segments deleted.
    pub deleted: AtomicU64,
}

/// See the [module](self).
pub struct Volume {
    /// This opening of it.
    pub writer: String,
    /// Where it is.
    pub store: Arc<dyn Store>,
    /// There, and where the volumes are whose clone it is.
    pub origins: Origins,
    /// Opens other volumes.
    pub opener: Opener,
    /// Bytes of the disk.
    size: AtomicU64,
    /// How it is served.
    pub tuning: Tuning,
    /// The local file.
    pub data: Arc<File>,
    pub(super) index: Index,
    state: Mutex<State>,
    pub(super) notes: Mutex<Notes>,
    /// There is something to store, or to end.
    pub(super) work: Notify,
    /// Something was stored.
    pub(super) stored: Notify,
    /// The map is to be stored soon, so that space is given back.
    pub(super) tidy: AtomicBool,
    /// It is closed, or another process may use its files.
    pub(super) ending: AtomicBool,
    /// Held by who stores the map.
    pub(super) mapping: tokio::sync::Mutex<()>,
    /// Held while a task changes the local files.
    files: RwLock<()>,
    /// Flushes that wait for the local medium, and whether somebody syncs.
    pub(super) syncs: Mutex<(Vec<Waiter>, bool)>,
    /// The notes are long, and somebody writes them anew.
    pub(super) renewing: AtomicBool,
    /// A sync has failed: none succeeds any more.
    pub(super) broken: AtomicBool,
    /// How many segments may be stored at a time: fewer after failures.
    pub(super) lanes: AtomicUsize,
    /// The owner was told that calls take long: those that store, and those that read.
    late: [AtomicBool; 2],
    /// Those that are tried again are one at a time.
    pub(super) retries: Semaphore,
    reporter: Mutex<Option<Reporter>>,
    /// What was counted.
    pub counts: Counts,
}

impl Volume {
    /// With what was found at its opening.
    pub fn new(
        writer: String,
        (origins, opener): (Origins, Opener),
        tuning: Tuning,
        (data, index, notes): (Arc<File>, Index, Notes),
        state: State,
    ) -> Self {
        let sends = tuning.sends;
        Self {
            writer,
            store: origins.own().clone(),
            origins,
            opener,
            size: AtomicU64::new(state.blocks * BLOCK),
            tidy: AtomicBool::new(false),
            tuning,
            data,
            index,
            state: Mutex::new(state),
            notes: Mutex::new(notes),
            work: Notify::new(),
            stored: Notify::new(),
            ending: AtomicBool::new(false),
            mapping: tokio::sync::Mutex::default(),
            files: RwLock::default(),
            syncs: Mutex::default(),
            renewing: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            lanes: AtomicUsize::new(sends),
            late: Default::default(),
            retries: Semaphore::new(1),
            reporter: Mutex::new(None),
            counts: Counts::default(),
        }
    }

    /// Its state. Nothing that waits is done while it is locked.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of the disk.
    pub fn size(&self) -> u64 {
        self.size.load(SeqCst)
    }

    /// The disk has another size from here on.
    pub fn set_size(&self, size: u64) {
        self.size.store(size, SeqCst);
    }

    pub(super) fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Errors that belong to no request go there.
    pub fn report_to(&self, reporter: Reporter) {
        *self.reporter.lock().unwrap_or_else(PoisonError::into_inner) = Some(reporter);
    }

    /// Tells the device's owner.
    pub fn report(&self, message: String) {
        let reporter = self.reporter.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(reporter) = reporter {
            reporter.report(message);
        }
    }

    /// Tells the owner why calls take long, once, however many do.
    pub(super) fn report_late(&self, way: Call, message: String) {
        if !self.late[way as usize].swap(true, SeqCst) {
            self.report(message);
        }
    }

    /// Tells the owner that they work again, if they were late.
    pub(super) fn report_again(&self, way: Call) {
        if self.late[way as usize].swap(false, SeqCst) {
            let again = match way {
                Call::Up => "stores",
                Call::Down => "answers",
            };
            self.report(format!("{}: {again} again", self.store.name()));
        }
    }

    /// Nothing works from here on.
    pub fn stop(&self, errno: i32, why: String) {
        if self.halt(errno) {
            self.report(why);
        }
    }

    /// The same, since another process has opened the volume.
    pub fn fenced(&self, why: String) {
        if !self.halt(libc::EIO) {
            return;
        }
        let reporter = self.reporter.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(reporter) = reporter {
            reporter.fenced(why);
        }
    }

    /// Whether nothing had stopped it before: the first reason counts.
    fn halt(&self, errno: i32) -> bool {
        let mut state = self.state();
        if state.stopped().is_some() {
            return false;
        }
        let told = state.stop(errno);
        drop(state);
        told.tell();
        self.work.notify_one();
        self.stored.notify_one();
        true
    }

    /// What was written is noted, and counts from here on. Its data is in the local file.
    pub fn commit(&self, written: &[(Writing, Kind)]) -> io::Result<()> {
        let mut notes = self.notes();
        let of = |(writing, kind): &(Writing, Kind)| Note {
            id: writing.id,
            start: writing.start,
            extent: super::format::Extent {
                block: writing.block,
                blocks: writing.blocks,
                place: writing.place,
                kind: *kind,
            },
        };
        let noted = written.iter().map(of).collect::<Vec<_>>();
        let added = notes.add(&noted);
        // With the notes locked: what overlaps counts in the same order there, in the map, and in the segment.
        let mut state = self.state();
        let told: Vec<_> = match &added {
            Ok(()) => written.iter().map(|(writing, kind)| state.commit(writing, *kind)).collect(),
            Err(_) => written.iter().map(|(writing, _)| state.abandon(writing)).collect(),
        };
        let long = notes.is_long() && !self.renewing.swap(true, SeqCst);
        drop(state);
        drop(notes);
        let ready = told.iter().any(|told| told.ready);
        told.into_iter().for_each(super::state::Told::tell);
        if ready || long {
            self.work.notify_one();
        }
        added
    }

    /// A task changes the local files, unless they may be another process's.
    pub fn with_files(&self, change: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let _held = self.files.read().unwrap_or_else(PoisonError::into_inner);
        if self.ending.load(SeqCst) {
            return Err(io::Error::from_raw_os_error(libc::ESHUTDOWN));
        }
        change()
    }

    /// No task changes the local files, or asks the store for anything new, from here on.
    pub fn end(&self) {
        self.ending.store(true, SeqCst);
        drop(self.files.write().unwrap_or_else(PoisonError::into_inner));
        self.work.notify_one();
        self.stored.notify_one();
    }

    /// Begins a write; `None`: the waiter is told when to try again.
    pub fn begin_write(
        &self,
        block: u64,
        blocks: u32,
        way: Way,
        waiter: impl FnOnce() -> Waiter,
    ) -> Result<Option<Writing>, i32> {
        let mut state = self.state();
        let before = state.next_id();
        match state.begin_write(block, blocks, way) {
            Ok(writing) => {
                let opened = state.next_id() != before;
                drop(state);
                if opened {
                    // The one before may be full, and this one is not to wait for more for too long.
                    self.work.notify_one();
                }
                Ok(Some(writing))
            }
            Err(Refused::Stopped(errno)) => Err(errno),
            Err(why) => {
                state.wait_for(why, waiter());
                drop(state);
                self.work.notify_one();
                Ok(None)
            }
        }
    }

    /// A write has failed.
    pub fn abandon(&self, writing: &Writing) {
        let told = self.state().abandon(writing);
        told.tell();
        // Its segment may be whole now.
        self.work.notify_one();
    }

    /// Has a part of the disk read as zeroes. `false`: the waiter is told when to try again.
    pub fn zero(&self, block: u64, blocks: u32, waiter: impl FnOnce() -> Waiter) -> Result<bool, i32> {
        let mut notes = self.notes();
        let mut state = self.state();
        if state.is_zero(block, blocks) {
            return Ok(true);
        }
        let before = state.next_id();
        let writing = match state.zero(block, blocks) {
            Ok(writing) => writing,
            Err(Refused::Stopped(errno)) => return Err(errno),
            Err(why) => {
                state.wait_for(why, waiter());
                drop(state);
                self.work.notify_one();
                return Ok(false);
            }
        };
        let opened = state.next_id() != before;
        drop(state);
        let extent = super::format::Extent { block, blocks, place: 0, kind: Kind::Zero };
        let noted = notes.add(&[Note { id: writing.id, start: writing.start, extent }]);
        drop(notes);
        if opened {
            self.work.notify_one();
        }
        noted.map(|()| true).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))
    }

    /// Where a part of the disk is; what is here is pinned. Fails with an error number once the disk has stopped: somebody else may
    /// have written since.
    pub fn find(&self, block: u64, blocks: u32, parts: &mut Vec<(u64, u32, Found)>) -> Result<(), i32> {
        let mut state = self.state();
        if let Some(errno) = state.stopped() {
            return Err(errno);
        }
        let mut done = 0;
        while done < blocks {
            let (found, run) = state.find(block + u64::from(done), blocks - done);
            parts.push((u64::from(done), run, found));
            done += run;
        }
        Ok(())
    }

    /// What was found is not needed any more.
    pub fn unpin(&self, pins: impl Iterator<Item = Pin>) {
        let mut state = self.state();
        let told: Vec<_> = pins.map(|pin| state.unpin(pin)).collect();
        drop(state);
        told.into_iter().for_each(super::state::Told::tell);
    }
}
