//! A disk that keeps every version of what was written to it, and what was flushed in between, over another disk that stays as
//! it is.
//!
//! The data of writes is in the *log's data*, a disk that only grows: memory, or a file. It goes there straight away, so recording
//! copies nothing more than a disk in memory does: to memory at the end of a queue's turn, that of all its writes together, and to a
//! file as each write comes. [`ContentMap`] say where the newest version of a sector is; the
//! [`Log`] names all of them, with the moments at which they were started and completed.
//!
//! What a power cut would have left is found in the log: see [`crate::backend::crash`].

mod content_map;
mod engine;
mod exchange;
mod log;
mod log_memory;
mod started;
#[cfg(test)]
mod tests;
mod turn;
mod watch;

pub use content_map::{ContentMap, Leaf, Origin, is_of_zeroes};
pub use engine::{FixedEngine, Places, Sources};
pub use exchange::{Exported, RecordedLog};
pub use log::{Change, Completed, Flush, Log, Mark, Moment, NEVER, Write};
pub use log_memory::LogMemory;

use super::crash::{Bounds, LogData, Model, State as CrashState, States, View};
use super::{Backend, CopyMode, Discard, Engine, Errno, Extent, Properties, Readable, Site, crash, parts};
use crate::abi::SECTOR;
use crate::claim;
use crate::error::{Error, ErrorKind, Result};
use engine::RecorderEngine;
use started::Started;
use std::io;
use std::ops::Range;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use watch::Watch;

/// See the [module](self).
pub struct Recorder {
    base: Arc<dyn Backend>,
    /// Of the log.
    data: Arc<dyn Readable>,
    /// The base is all zeroes.
    blank: bool,
    size: u64,
    /// What is never torn, in bytes.
    unit: u32,
    /// Where the next data goes, in bytes.
    end: AtomicU64,
    /// How often the power was switched: it is off if that is odd. It changes while the state is locked.
    switched: AtomicU64,
    /// It is not served any more.
    closed: Arc<AtomicBool>,
    state: Mutex<State>,
}

/// An event at which the power fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trigger {
    /// The completion of this flush from now on: 1 is the next one.
    Flush(u64),
    /// The completion of this write, discard or write-zeroes from now on.
    Write(u64),
    /// The next mark with this name.
    Mark(String),
}

/// What changes together.
#[derive(Default)]
struct State {
    log: Log,
    /// What is not answered.
    started: Started,
    newest: ContentMap,
    /// The content when the log began.
    before: ContentMap,
    /// When it is going to be cut.
    trigger: Option<Trigger>,
    /// Or who looks whether it is.
    watch: Option<Watch>,
    /// The content that it has when it is on again.
    after: Option<ContentMap>,
    /// That content is being chosen.
    choosing: bool,
    /// When the power was switched on: what was started before is lost.
    on: Moment,
}

impl State {
    /// A request was answered.
    fn tell(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.tell();
        }
    }

    /// The log with what is in flight now, and the content when it began.
    fn recorded(&self) -> (Log, ContentMap) {
        let mut log = self.log.clone();
        self.started.whole().iter().for_each(|change| log.in_flight(change));
        (log, self.before.clone())
    }
}

impl Recorder {
    /// A disk with the content of `base`, which is only read. `data` is for the data of the log: what was there before is
    /// overwritten. `unit`: how many bytes, in which places, are never torn; that is the disk's physical block size.
    pub fn new(base: Arc<dyn Backend>, data: Arc<dyn Readable>, unit: u32) -> Result<Self> {
        let Properties { size, block_size, .. } = base.properties();
        let unit = unit.max(block_size);
        let room = data.properties();
        if room.block_size > block_size {
            return Err(Error::invalid(format!(
                "the log's data has blocks of {} bytes, and the disk has smaller ones",
                room.block_size
            ))
            .hint("keep it in memory, or in a file"));
        }
        let (end, switched) = (AtomicU64::new(0), AtomicU64::new(0));
        let closed = Arc::default();
        Ok(Self { base, data, blank: false, size, unit, end, switched, closed, state: Mutex::default() })
    }

    /// The base is all zeroes: writing zeroes to it makes no other content.
    #[must_use]
    pub fn over_zeroes(self) -> Self {
        Self { blank: true, ..self }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn allocate(&self, length: u64) -> Option<u64> {
        let (offset, room) = self.room(length);
        (room == length).then_some(offset)
    }

    /// A place for new data: where it begins, and for how much of it there is room.
    fn room(&self, length: u64) -> (u64, u64) {
        let offset = self.end.fetch_add(length, Relaxed);
        (offset, length.min(self.data.properties().size.saturating_sub(offset)))
    }

    /// A change is started now, whose data is in the log's data already, or not yet. It gets the moment; what comes after a cut
    /// is not recorded.
    fn begin(&self, mut change: Change, is_whole: bool) -> Change {
        let mut state = self.state();
        change.start = state.log.tick();
        if !self.is_off() {
            state.started.add(change, is_whole);
        }
        change
    }

    /// The data of a change is in the log's data now.
    fn is_whole(&self, change: &Change) {
        self.state().started.is_whole(change);
    }

    /// A change failed.
    fn failed(&self, change: &Change) {
        self.state().started.remove(change);
    }

    /// Changes that are answered now, in this order, with their numbers; their data is in the log's data. Returns the numbers of
    /// those that are not logged: they were started before the power was switched on, or are answered after it went off.
    fn log_all(&self, changes: &[(u64, Change)]) -> Vec<u64> {
        let mut state = self.state();
        let refused = self.log_some(&mut state, changes);
        if refused.len() < changes.len() {
            state.tell();
        }
        refused
    }

    fn log_some(&self, state: &mut State, changes: &[(u64, Change)]) -> Vec<u64> {
        let mut refused = Vec::new();
        for (number, change) in changes {
            let State { log, started, newest, trigger, on, .. } = state;
            if self.is_off() || change.start < *on {
                started.is_whole(change); // it was in flight when the power went off
                refused.push(*number);
                continue;
            }
            started.remove(change);
            Log::apply(&log.write(change), newest);
            if let Some(Trigger::Write(left)) = trigger {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    self.switch_off(state);
                }
            }
        }
        refused
    }

    fn flush(&self) -> std::result::Result<(), Errno> {
        let mut state = self.state();
        if self.is_off() {
            return Err(libc::EIO);
        }
        let start = state.log.tick();
        state.log.flush(start);
        if let Some(Trigger::Flush(left)) = &mut state.trigger {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.switch_off(&mut state);
            }
        }
        state.tell();
        Ok(())
    }

    /// Names the present moment.
    pub fn mark(&self, name: &str) {
        let mut state = self.state();
        state.log.mark(name.to_owned());
        if !self.is_off()
            && state.trigger.as_ref().is_some_and(|trigger| *trigger == Trigger::Mark(name.to_owned()))
        {
            self.switch_off(&mut state);
        }
    }

    /// What was answered so far.
    pub fn log(&self) -> Log {
        self.state().log.clone()
    }

    /// What is never torn, in sectors.
    pub fn unit(&self) -> u64 {
        u64::from(self.unit) / SECTOR
    }

    /// The moments from a mark to another; by default, from the beginning, and to the present.
    pub fn between(&self, from: Option<&str>, to: Option<&str>) -> Result<Range<Moment>> {
        let state = self.state();
        let marked = |name: &str| {
            let mark = state.log.marks().iter().find(|mark| mark.name == name).map(|mark| mark.at);
            mark.ok_or_else(|| {
                Error::new(ErrorKind::NotFound, format!("there is no mark {name:?}"))
                    .hint("set it with mark() before")
            })
        };
        // At the moment of a mark it is not set yet.
        let start = from.map_or(Ok(state.log.beginning_at()), |name| marked(name).map(|at| at + 1))?;
        let end = to.map_or(Ok(state.log.now()), marked)?;
        if end < start {
            return Err(Error::invalid("the last moment is before the first one")
                .hint("name the marks in the order in which they were set"));
        }
        Ok(start..end)
    }

    /// The states that a power cut at some moment until now could have left. Preparing them takes a while where much was written:
    /// what this returns does that, and can be called on another thread.
    pub fn states(&self, bounds: Bounds) -> impl FnOnce() -> States + Send + use<> {
        let (log, before) = self.state().recorded();
        move || States::new(Arc::new(log), before, bounds)
    }

    /// About how many bytes of memory the log of the states takes up, without the data.
    pub fn log_bytes(&self) -> usize {
        size_of_val(self.state().log.writes())
    }

    /// The size of the disk, in sectors.
    pub fn sectors(&self) -> u64 {
        self.size / SECTOR
    }

    /// One of its states as a disk, which is made before this one is closed.
    pub fn view(&self, state: &CrashState) -> View {
        let (base, data) = (self.base.clone(), self.data.clone());
        View::new(base, data, state.content.clone(), self.unit, self.closed.clone())
    }

    /// Switches the power off: requests fail, and those in flight are not answered without an error. The content is one that a
    /// disk may have then, which the seed and the moment determine; it is there when the power is [on](Self::restore) again.
    ///
    /// Fails if it is off already.
    pub fn cut(&self, model: Model, seed: u64) -> Result<()> {
        let (log, before) = {
            let mut state = self.state();
            if !self.is_off() {
                self.switch_off(&mut state);
            } else if state.choosing || state.after.is_some() {
                return Err(Error::invalid("the power is off already").hint("restore it first"));
            }
            state.choosing = true;
            state.recorded()
        };
        // This takes a while: nobody waits for the lock meanwhile.
        let chosen = self.choose(log, before, model, seed);
        let mut state = self.state();
        state.choosing = false;
        let chosen = chosen.map_err(|error| Error::system("cannot read the log's data", &error))?;
        // Nothing was written that the model could damage.
        state.after = Some(chosen.unwrap_or_else(|| state.newest.clone()));
        Ok(())
    }

    /// What is left after a cut now.
    fn choose(
        &self,
        log: Log,
        before: ContentMap,
        model: Model,
        seed: u64,
    ) -> io::Result<Option<ContentMap>> {
        let now = log.now();
        let bounds = Bounds {
            model,
            moments: now..now,
            budget: DRAWN,
            unit: self.unit(),
            seed,
            sectors: self.sectors(),
        };
        crash::left(&mut States::new(Arc::new(log), before, bounds), now, seed, self)
    }

    /// Switches the power off at an event: while it is off, at one after it is on again.
    pub fn cut_at(&self, trigger: Trigger) {
        let mut state = self.state();
        (state.trigger, state.watch) = (Some(trigger), None);
    }

    /// Whether the power is off.
    pub fn is_off(&self) -> bool {
        is_off(self.switched())
    }

    /// How often the power was switched.
    fn switched(&self) -> u64 {
        self.switched.load(Relaxed)
    }

    fn switch_off(&self, state: &mut State) {
        (state.trigger, state.watch) = (None, None);
        self.switched.fetch_add(1, SeqCst);
    }

    /// Switches the power on again. The log begins anew.
    ///
    /// Fails if it is not off.
    pub fn restore(&self) -> Result<()> {
        let mut state = self.state();
        let Some(content) = state.after.take() else {
            let what =
                if self.is_off() { "it is not chosen yet what is left" } else { "the power is not off" };
            return Err(Error::invalid(what).hint("cut the power first, which chooses what is left"));
        };
        let on = state.log.now();
        let log = Log::beginning(on);
        let (trigger, watch) = (state.trigger.take(), state.watch.take());
        *state =
            State { log, newest: content.clone(), before: content, trigger, watch, on, ..State::default() };
        self.switched.fetch_add(1, SeqCst);
        Ok(())
    }
}

/// Whether the power is off after it was switched so often.
fn is_off(switched: u64) -> bool {
    !switched.is_multiple_of(2)
}

impl LogData for Recorder {
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.data.load(offset, into)
    }

    fn add(&self, data: &[u8]) -> io::Result<u64> {
        let full = || io::Error::from_raw_os_error(libc::ENOSPC);
        let offset = self.allocate(data.len() as u64).ok_or_else(full)?;
        self.data.store(offset, data)?;
        Ok(offset)
    }

    fn was_blank(&self) -> bool {
        self.blank
    }
}

/// The most states among which a cut chooses.
const DRAWN: u64 = 256;

impl Backend for Recorder {
    fn properties(&self) -> Properties {
        let Properties { size, block_size, alignment, .. } =
            parts::together(&[self.base.clone(), self.data.clone()], self.size);
        let most = 1 << 30;
        let discard = Discard { granularity: block_size, alignment: 0, max: most, max_write_zeroes: most };
        Properties {
            block_size,
            physical_block: self.unit,
            alignment,
            write_cache: true,
            discard: Some(discard),
            ..Properties::new(size)
        }
    }

    /// Not without a copy: it has to write zeroes to the memory of requests.
    fn copy_modes(&self) -> Vec<CopyMode> {
        let modes = parts::copy_modes(&[self.base.clone(), self.data.clone()]);
        modes.into_iter().filter(|mode| *mode != CopyMode::Zero).collect()
    }

    fn places(&self) -> Vec<claim::Place<'_>> {
        let base = self.base.places().into_iter();
        let base = base.map(|place| claim::Place { role: place.role.below_overlay(), ..place });
        base.chain(self.data.places()).collect()
    }

    fn extents(&self, _: Range<u64>) -> Vec<Extent<'_>> {
        Vec::new()
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
        Ok(Box::new(RecorderEngine::new(self, site)?))
    }

    fn close(&self) -> Result<()> {
        self.closed.store(true, SeqCst);
        // Who watches may hold the disk.
        self.state().watch = None;
        self.data.close().and(self.base.close())
    }
}
