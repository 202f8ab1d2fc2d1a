//! Which chunks are present, which are being fetched, and which requests wait for them.

use super::map::Map;
use super::progress::Counters;
use super::room::Room;
use crate::backend::Storage;
use crate::queue::{Completer, Token};
use crate::report::Reporter;
use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Somebody who waits for something: 0 or a negative error number.
#[derive(Clone)]
pub enum Waiter {
    /// A request.
    Request { completer: Completer, token: Token },
    /// A thread that fills the disk.
    Thread(Sender<i32>),
}

impl Waiter {
    pub fn tell(&self, result: i32) {
        match self {
            Self::Request { completer, token } => completer.complete(*token, result),
            Self::Thread(sender) => drop(sender.send(result)), // it may have given up
        }
    }
}

/// What a request has to do before it can go to the storage.
pub enum Plan {
    /// Nothing: it holds these chunks, which it overwrites.
    Go(Claim),
    /// To wait to be told so often, after having these ranges of chunks fetched.
    Wait { times: u32, fetch: Vec<Range<u64>> },
    /// Told once, after this number of chunks was evicted.
    Evict(u64),
    /// To fail: it needs data that was lost.
    Lost,
    /// To fail: no more written chunks fit into the cache.
    Full,
    /// To fail: the map cannot be written.
    Failed(i32),
}

/// What a request does to the chunks it touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It needs what is there.
    Read,
    /// It needs what is there in those that it covers in part.
    Overwrite,
    /// It needs nothing, and leaves nothing that matters in those that it covers wholly.
    Discard,
}

/// The chunks of a disk. A chunk is missing; or busy, while it is fetched or overwritten; or present.
pub struct Chunks {
    pub map: Map,
    /// The cache's bound, if it has one.
    pub room: Option<Room>,
    pub counters: Counters,
    /// How many fetches are under way for requests.
    pub wanted: AtomicUsize,
    pub(super) state: Mutex<State>,
    /// How often the storage has lost data. Changes with `state` locked.
    epoch: AtomicU64,
    /// Held while the storage is asked for losses, which it reports once, until the loss was recorded.
    asking: Mutex<()>,
    reporter: Mutex<Option<Reporter>>,
    /// The filler is going to save without being told.
    watched: AtomicBool,
    /// The disk is being closed: nobody waits for requests to end.
    pub closing: AtomicBool,
}

/// What changes with a lock.
#[derive(Default)]
pub(super) struct State {
    /// The chunks that are being fetched, overwritten or evicted, and the requests that wait for them.
    pub busy: HashMap<u64, Vec<Waiter>>,
    /// The rest is only for a bounded cache. How many chunks take up space: those that are present, those that are being
    /// stored or overwritten, and the leftovers.
    pub used: u64,
    /// How many of them are dirty.
    pub dirty: u64,
    /// Missing chunks that take up space, since something went wrong with them; and whether freeing it has failed before.
    pub leftover: HashMap<u64, bool>,
    /// Chunks that were fetched, and wait for room.
    pub arrived: HashSet<u64>,
    /// Where the next search for chunks to evict begins.
    pub hand: u64,
}

impl State {
    /// The leftovers that nobody is fetching: those that freeing has failed for before, or the others.
    pub(super) fn idle_leftovers(&self, failed: bool) -> Vec<u64> {
        let idle = self.leftover.iter().filter(|(chunk, _)| !self.busy.contains_key(chunk));
        idle.filter(|(_, before)| **before == failed).map(|(chunk, _)| *chunk).collect()
    }

    /// Whether a leftover is being fetched: it is going to be present, or idle. Those that have arrived do not count, or two
    /// of them could wait for each other.
    pub(super) fn awaits_leftovers(&self) -> bool {
        self.leftover.keys().any(|chunk| self.busy.contains_key(chunk) && !self.arrived.contains(chunk))
    }
}

impl Chunks {
    /// `room`: the bound of the cache, whose map has to be made for that.
    pub fn new(map: Map, room: Option<Room>) -> Self {
        let bounded = room.is_some();
        let state = State {
            used: if bounded { map.count() } else { 0 },
            dirty: map.count_dirty().unwrap_or(0),
            ..State::default()
        };
        Self {
            map,
            room,
            counters: Counters::default(),
            wanted: AtomicUsize::new(0),
            state: Mutex::new(state),
            epoch: AtomicU64::new(0),
            asking: Mutex::default(),
            reporter: Mutex::default(),
            watched: AtomicBool::new(false),
            closing: AtomicBool::new(false),
        }
    }

    /// Receives errors that belong to no request.
    pub fn report_to(&self, reporter: Reporter) {
        *self.reporter.lock().unwrap_or_else(PoisonError::into_inner) = Some(reporter);
    }

    pub fn report(&self, message: String) {
        let reporter = self.reporter.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(reporter) = reporter {
            reporter.report(message);
        }
    }

    /// Whether the caller has to tell the filler that there is something to save.
    pub fn unwatched(&self) -> bool {
        self.map.is_kept() && !self.map.failed() && !self.watched.swap(true, SeqCst)
    }

    /// Whether there is something to save; the filler calls this before it sleeps.
    pub fn watch(&self) -> bool {
        // In this order: a thread that adds something after the check sees the flag unset.
        self.watched.store(false, SeqCst);
        let watched = self.map.unsaved() && !self.map.failed();
        self.watched.store(watched, SeqCst);
        watched
    }

    /// Counts the storage's losses of data: the same number means no loss in between.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(SeqCst)
    }

    /// Whether data that was read since `epoch` is what was written.
    pub fn intact(&self, storage: &dyn Storage, epoch: u64) -> bool {
        let _one = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = storage.intact() {
            self.forget(&error);
        }
        self.epoch() == epoch
    }

    /// Whether what was written is durable, now that a sync of the storage has succeeded. The kernel reports a loss to one
    /// thread that syncs the storage's file. The thread may not have recorded it yet, but this asks once more, in one order
    /// with all recording.
    pub fn is_durable(&self, storage: &dyn Storage) -> bool {
        let epoch = self.epoch();
        self.intact(storage, epoch) && !self.map.failed()
    }

    /// A sync has failed.
    pub fn failed(&self, why: &io::Error) {
        let _one = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        self.forget(why);
    }

    fn forget(&self, why: &io::Error) {
        let first = !self.map.failed();
        let mut state = self.state();
        let told = self.map.forget(|chunk| {
            if self.room.is_some() {
                state.leftover.insert(chunk, false);
            }
        });
        self.epoch.fetch_add(1, SeqCst);
        drop(state);
        if first {
            self.report(format!(
                "the disk's cache has lost data: {why}. Fetched data is fetched again; reads of data written since the last \
                 flush fail, and so does every flush until the disk is created again"
            ));
        }
        if let (Err(error), Some(path)) = (told, self.map.path()) {
            self.report(format!("cannot record that in the map {}: {error}", path.display()));
        }
    }

    /// Makes all present chunks durable.
    pub fn save(&self, storage: &dyn Storage) -> io::Result<()> {
        let epoch = self.epoch();
        let saved = self.map.save(
            || {
                storage.sync()?;
                // A queue's sync may have taken the report of a loss that it has not recorded yet.
                match self.intact(storage, epoch) {
                    true => Ok(()),
                    false => Err(io::Error::from_raw_os_error(libc::EIO)),
                }
            },
            |publish| {
                let _state = self.state();
                if self.epoch() != epoch {
                    return Err(io::Error::from_raw_os_error(libc::EIO));
                }
                publish();
                Ok(())
            },
        );
        match saved {
            Ok(false) => Ok(()),
            Ok(true) => {
                if let Some(path) = self.map.path() {
                    self.report(format!("the map {} was truncated: it was written again", path.display()));
                }
                Ok(())
            }
            Err(error) => {
                self.failed(&error);
                Err(error)
            }
        }
    }

    /// The chunks that a range of bytes touches.
    pub fn touched(&self, offset: u64, length: u64) -> Range<u64> {
        let chunk = self.map.chunk();
        offset / chunk..(offset + length).div_ceil(chunk)
    }

    /// How many chunks there are.
    pub fn count(&self) -> u64 {
        self.map.size().div_ceil(self.map.chunk())
    }

    /// The first chunk from `from` on that is missing.
    pub fn missing(&self, from: u64) -> Option<u64> {
        (from..self.count()).find(|chunk| !self.map.has(*chunk))
    }

    /// How many more chunks fit in.
    pub fn free(&self) -> u64 {
        self.room.as_ref().map_or(u64::MAX, |room| room.most.saturating_sub(self.state().used))
    }

    /// Whether requests wait for the source.
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(SeqCst) > 0
    }

    /// The bytes of a range of chunks: offset and length. The last chunk ends with the disk.
    pub fn bytes(&self, chunks: &Range<u64>) -> (u64, u64) {
        let start = chunks.start * self.map.chunk();
        (start, (chunks.end * self.map.chunk()).min(self.map.size()) - start)
    }

    /// Finds out what a request has to do first. What it is told to fetch is busy from here on, and so is what it
    /// claims; it claims only when there is nothing to wait for, so no two requests wait for each other.
    pub fn plan(self: &Arc<Self>, offset: u64, length: u64, what: Use, waiter: &Waiter) -> Plan {
        let mut state = self.state();
        let State { busy, .. } = &mut *state;
        let whole = |chunk| {
            let (start, bytes) = self.bytes(&(chunk..chunk + 1));
            what != Use::Read && offset <= start && start + bytes <= offset + length
        };
        let lost = |chunk| self.map.is_lost(chunk);
        if self.map.any_lost() && self.touched(offset, length).any(|chunk| lost(chunk) && !whole(chunk)) {
            return Plan::Lost;
        }
        let bounded = self.room.is_some();
        let (mut times, mut fetch, mut claim) = (0, Vec::<Range<u64>>::new(), Vec::new());
        let (mut dirty, mut written) = (Vec::new(), Vec::new());
        for chunk in self.touched(offset, length) {
            if self.map.has(chunk) && !lost(chunk) {
                if what != Use::Read && !self.map.is_written(chunk) {
                    written.push(chunk);
                }
                if bounded && what != Use::Read && !self.map.is_dirty(chunk) {
                    dirty.push(chunk);
                }
                continue;
            }
            match busy.get_mut(&chunk) {
                Some(_) if what == Use::Discard => {} // either order will do
                Some(waiters) => {
                    waiters.push(waiter.clone());
                    times += 1;
                }
                // Remembering that nothing is there would take up space.
                None if what == Use::Discard && (bounded || !whole(chunk)) => {}
                None if whole(chunk) => claim.push(chunk),
                None => {
                    busy.insert(chunk, vec![waiter.clone()]);
                    times += 1;
                    match fetch.last_mut() {
                        Some(run) if run.end == chunk => run.end += 1,
                        _ => fetch.push(chunk..chunk + 1),
                    }
                }
            }
        }
        if times > 0 {
            return Plan::Wait { times, fetch };
        }
        dirty.extend(claim.iter().filter(|chunk| !self.map.is_dirty(**chunk)));
        if let Some(room) = &self.room
            && let Err(plan) = self.reserve_dirty(room, &mut state, &claim, &dirty)
        {
            return plan;
        }
        // Only what is really going to be written counts as lost if the storage loses it; the rest is fetched again.
        written.into_iter().for_each(|chunk| self.map.write(chunk));
        state.busy.extend(claim.iter().map(|&chunk| (chunk, Vec::new())));
        Plan::Go(Claim { chunks: self.clone(), held: claim, epoch: self.epoch() })
    }

    /// The data of some busy chunks was written to the storage since `epoch`, by a client if `written`. Unless it may
    /// be lost again, they are present from here on; returns whether they are. Wakes the waiters, which check again;
    /// those that waited for a fetch fail if the map cannot be written.
    pub fn complete(&self, chunks: &[u64], written: bool, epoch: u64) -> io::Result<()> {
        // The file first: see the map's order.
        let mut done = self.map.file(chunks);
        let mut told = 0;
        if let (Err(error), Some(path)) = (&done, self.map.path()) {
            self.report(format!("cannot write the map {}: {error}", path.display()));
            told = -error.raw_os_error().unwrap_or(libc::EIO);
        }
        let mut state = self.state();
        if done.is_ok() {
            if self.epoch() == epoch {
                self.map.set(chunks, written);
            } else {
                done = Err(io::Error::from_raw_os_error(libc::EIO));
            }
        }
        match &done {
            Err(_) => self.leave_over(&mut state, chunks.iter().copied()),
            Ok(()) => {
                if let Some(room) = &self.room {
                    chunks.iter().for_each(|chunk| room.pins.touch(*chunk));
                }
            }
        }
        let waiters = Self::end_busy(&mut state, chunks.iter().copied());
        drop(state);
        waiters.into_iter().for_each(|waiter| waiter.tell(if written { 0 } else { told }));
        done
    }

    /// Ends the busy state of some chunks, which are missing again. Gives the waiters the result.
    pub fn give_up(&self, chunks: impl IntoIterator<Item = u64>, result: i32) {
        let waiters = Self::end_busy(&mut self.state(), chunks);
        waiters.into_iter().for_each(|waiter| waiter.tell(result));
    }

    /// The same for chunks that there was [room](Self::make_room) made for.
    pub fn abandon(&self, chunks: impl IntoIterator<Item = u64> + Clone, result: i32) {
        self.leave_over(&mut self.state(), chunks.clone());
        self.give_up(chunks, result);
    }

    /// Some chunks that take up space did not become present.
    fn leave_over(&self, state: &mut State, chunks: impl IntoIterator<Item = u64>) {
        if self.room.is_none() {
            return;
        }
        for chunk in chunks.into_iter().filter(|chunk| !self.map.has(*chunk)) {
            state.leftover.insert(chunk, false);
            if self.map.is_dirty(chunk) && self.map.clear_dirty(chunk) {
                state.dirty -= 1;
            }
        }
    }

    pub(super) fn end_busy(state: &mut State, chunks: impl IntoIterator<Item = u64>) -> Vec<Waiter> {
        chunks.into_iter().flat_map(|chunk| state.busy.remove(&chunk).unwrap_or_default()).collect()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Chunks that a request overwrites for the first time. Dropped, they are missing again.
pub struct Claim {
    chunks: Arc<Chunks>,
    held: Vec<u64>,
    epoch: u64,
}

impl Claim {
    /// The chunks were overwritten and are present. Fails if the data is lost again.
    pub fn fulfil(mut self) -> io::Result<()> {
        let held = std::mem::take(&mut self.held);
        if held.is_empty() { Ok(()) } else { self.chunks.complete(&held, true, self.epoch) }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.held.is_empty() {
            self.chunks.abandon(std::mem::take(&mut self.held), 0);
        }
    }
}

#[cfg(test)]
mod tests;
