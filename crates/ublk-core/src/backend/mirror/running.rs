//! What a mirrored disk does besides requests: it keeps the map, gives up sides that have failed, and fills those that lack something.

use super::copier::Copier;
use super::disk::{Mirror, locked};
use super::intents::Intents;
use super::map::{Map, part_of};
use super::sides::{Sides, Status};
use crate::backend::Backend;
use crate::backend::bits::Bits;
use crate::backend::reader::Reader;
use crate::error::{Error, ErrorKind, Result};
use crate::io_flusher::IoFlusher;
use crate::queue::Op;
use crate::report::Reporter;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often parts that did not change since the last time are told from others.
const TIDY: Duration = Duration::from_secs(5);
/// How long changes in flight may take.
const CHANGES: Duration = Duration::from_secs(30);
/// How often one who waits for another resync looks.
const LOOK: Duration = Duration::from_millis(10);

/// What there is while it is served.
pub struct Running {
    pub sides: Arc<Sides>,
    pub intents: Option<Arc<Intents>>,
    pub map: Option<Mutex<Map>>,
    pub disks: Vec<Arc<dyn Backend>>,
    pub names: Vec<String>,
    pub reporter: Mutex<Option<Reporter>>,
    pub keeper: Mutex<Option<JoinHandle<()>>>,
    /// Something copies.
    pub copying: Mutex<()>,
    pub done: AtomicU64,
    pub copies: AtomicBool,
}

impl Running {
    pub fn new(mirror: &Mirror, map: Option<Map>) -> Result<Arc<Self>> {
        let number = mirror.disks.len();
        let sides = Arc::new(Sides::new(mirror.size, part_of(mirror.size), number, None)?);
        let intents = map.as_ref().map(|_| Intents::new(sides.clone())).transpose()?;
        let (mut current, mut unknown) = match &map {
            None => (1, !1),
            Some(map) => (map.header().current, map.header().unknown),
        };
        if map.as_ref().is_some_and(|map| !map.is_new) {
            // What was in memory is gone.
            for (side, _) in mirror.disks.iter().enumerate().filter(|(_, disk)| !disk.is_in_files()) {
                (current, unknown) = (current & !(1 << side), unknown | 1 << side);
            }
        }
        let mut source = None;
        for side in 0..number {
            let has = current & 1 << side != 0;
            if has && source.is_none() {
                source = Some(side);
                sides.set_status(side, Status::Equal);
                continue;
            }
            let dirty = &sides.side(side).dirty;
            match &map {
                Some(map) if unknown & 1 << side == 0 => dirty.add(&map.bits),
                _ => dirty.set_all(0..sides.parts()),
            }
            // Nothing differs: no need to look.
            let equal = has && dirty.count() == 0;
            sides.set_status(side, if equal { Status::Equal } else { Status::Filling });
        }
        if source.is_none() {
            return Err(Error::new(ErrorKind::Backend, "no disk of the mirror has all of it")
                .hint("those that had all were in memory, which is gone"));
        }
        if let (Some(map), Some(intents)) = (&map, &intents) {
            intents.noted.add(&map.bits);
        }
        Ok(Arc::new(Self {
            sides,
            intents: intents.map(Arc::new),
            map: map.map(Mutex::new),
            disks: mirror.disks.clone(),
            names: mirror.names.clone(),
            reporter: Mutex::default(),
            keeper: Mutex::default(),
            copying: Mutex::default(),
            done: AtomicU64::new(0),
            copies: AtomicBool::new(false),
        }))
    }

    fn report(&self, line: String) {
        if let Some(reporter) = &*locked(&self.reporter) {
            reporter.report(line);
        }
    }

    /// Starts what it does besides requests, once.
    pub fn keep(self: &Arc<Self>, reporter: Reporter) {
        locked(&self.reporter).get_or_insert(reporter);
        let mut keeper = locked(&self.keeper);
        if keeper.is_some() {
            return;
        }
        let running = self.clone();
        let thread = std::thread::Builder::new().name("ublk-mirror".into());
        match thread.spawn(move || running.run()) {
            Ok(thread) => *keeper = Some(thread),
            Err(error) => self.report(format!("no thread can keep the mirror's map: {error}")),
        }
    }

    fn run(self: Arc<Self>) {
        let _flusher = IoFlusher::new(); // if it cannot be one, it is a thread like that of any other program
        let filler = self.clone();
        let filling = std::thread::Builder::new().name("ublk-resync".into()).spawn(move || {
            let _flusher = IoFlusher::new();
            let ended = || filler.sides.has_ended();
            if let Err(error) = filler.resync(None, &ended, false)
                && !ended()
            {
                filler.report(format!("the mirror's disks are not equal yet: {error}"));
            }
        });
        let mut tidied = Instant::now();
        loop {
            self.sides.wait(TIDY);
            self.give_up_failed();
            self.note();
            let ended = self.sides.has_ended();
            if ended || tidied.elapsed() >= TIDY {
                self.tidy(ended);
                tidied = Instant::now();
            }
            if ended {
                break;
            }
        }
        if let Ok(filling) = filling {
            let _ = filling.join();
        }
    }

    fn note(&self) {
        if let (Some(intents), Some(map)) = (&self.intents, &self.map) {
            let mut note = |parts: &[Range<u64>]| locked(map).set(parts);
            if let Err(error) = intents.serve(&mut note) {
                self.report(format!("{error}: writes fail"));
            }
        }
    }

    /// Sides that have failed are not used any more, once the map says so.
    fn give_up_failed(&self) {
        for side in 0..self.sides.number() {
            let Some(errno) = self.sides.failure(side).filter(|_| self.sides.status(side) == Status::Equal)
            else {
                continue;
            };
            if self.sides.equal() & !(1 << side) == 0 {
                self.sides.forgive(side); // nobody else has all
                continue;
            }
            if let Some(map) = &self.map {
                let mut map = locked(map);
                let header = map.header();
                if let Err(error) = map.set_sides(header.current & !(1 << side), header.unknown) {
                    drop(map);
                    self.report(format!("{error}: requests wait until it can be written"));
                    continue;
                }
            }
            self.sides.give_up(side);
            let why = std::io::Error::from_raw_os_error(errno);
            self.report(format!(
                "side {} of the mirror, {}, has failed ({why}) and is used no more, until it is resynced",
                side + 1,
                self.names[side]
            ));
        }
    }

    /// Clears the bits of parts that are equal on all sides, and did not change for a while.
    fn tidy(&self, ended: bool) {
        let (Some(intents), Some(map)) = (&self.intents, &self.map) else { return };
        let all = (1 << self.sides.number()) - 1;
        let is_whole = || {
            u64::from(self.sides.equal()) == all
                && locked(map).header().current == all
                && (0..self.sides.number()).all(|side| self.sides.failure(side).is_none())
        };
        if intents.noted.count() == 0 || !is_whole() {
            return;
        }
        // What has changed since the last time stays. The others have to be noted anew from here on.
        let busy: Vec<u64> = if ended { Vec::new() } else { set_bits(&intents.recent, self.sides.parts()) };
        for part in set_bits(&intents.noted, self.sides.parts()) {
            intents.recent.clear(part);
            if busy.binary_search(&part).is_err() {
                intents.noted.clear(part);
            }
        }
        let era = if ended { Ok(()) } else { self.sides.queues.hold_changes(&(0..0), CHANGES) };
        self.sides.queues.go_on();
        let flushed = era.and_then(|()| self.flush());
        let done = flushed.and_then(|()| if is_whole() { locked(map).keep(&intents.noted) } else { Ok(()) });
        if done.is_err() || !is_whole() {
            // They stay in the map, and so they need not be noted again.
            intents.noted.add(&locked(map).bits);
        }
    }

    fn flush(&self) -> Result<()> {
        for disk in &self.disks {
            let reporter = locked(&self.reporter).clone().unwrap_or_else(|| Reporter::new(|_| {}));
            let mut side = Reader::changing(disk.clone(), 1, 4096, reporter)?;
            let nothing = std::slice::from_ref(&(0..0));
            side.change_unless(&|| false, Op::Flush, nothing, &|_, _| {}).map_err(|errno| {
                let error = std::io::Error::from_raw_os_error(errno);
                Error::system("cannot flush a side of the mirror", &error).kind(ErrorKind::Backend)
            })?;
        }
        Ok(())
    }

    /// Fills all sides that are not equal. `again`: those that were given up, too.
    pub fn resync(&self, rate: Option<u64>, given_up: &dyn Fn() -> bool, again: bool) -> Result<()> {
        // One at a time: what follows a crash goes first.
        let _copying = loop {
            match self.copying.try_lock() {
                Ok(guard) => break guard,
                Err(TryLockError::Poisoned(guard)) => break guard.into_inner(),
                Err(TryLockError::WouldBlock) if given_up() || self.sides.has_ended() => {
                    return Err(Error::new(ErrorKind::Cancelled, "the resync was cancelled"));
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOOK),
            }
        };
        let mut failed = Ok(());
        for side in 0..self.sides.number() {
            if again && self.sides.status(side) == Status::Off {
                self.bring_back(side)?;
            }
            if self.sides.status(side) == Status::Filling {
                let filled = self.fill(side, rate, given_up);
                self.copies.store(false, SeqCst);
                failed = failed.and(filled);
            }
        }
        failed
    }

    /// A side that was given up gets changes again, where it has what was there before.
    fn bring_back(&self, side: usize) -> Result<()> {
        let dirty = &self.sides.side(side).dirty;
        dirty.set_all(0..self.sides.parts());
        self.sides.forgive(side);
        self.sides.set_status(side, Status::Filling);
        let (Some(intents), Some(map)) = (&self.intents, &self.map) else { return Ok(()) };
        if locked(map).header().unknown & 1 << side != 0 {
            return Ok(());
        }
        // No change is in flight that saw the side as given up, and none begins: so all that it lacks is noted.
        let held = self.sides.queues.hold_changes(&(0..self.sides.size), CHANGES);
        if held.is_ok() {
            dirty.keep(&intents.noted);
        }
        self.sides.queues.go_on();
        held
    }

    fn fill(&self, side: usize, rate: Option<u64>, given_up: &dyn Fn() -> bool) -> Result<()> {
        let given_up = || given_up() || self.sides.has_ended() || self.sides.failure(side).is_some();
        let source = (0..self.sides.number())
            .find(|source| self.sides.status(*source) == Status::Equal)
            .ok_or_else(|| Error::new(ErrorKind::Backend, "no disk of the mirror has all of it"))?;
        let reporter = locked(&self.reporter).clone().unwrap_or_else(|| Reporter::new(|_| {}));
        let (from, to) = (&self.disks[source], &self.disks[side]);
        let mut copier = Copier::new(self.sides.clone(), side, from, to, &reporter)?;
        self.copies.store(true, SeqCst);
        let progress = |missing: u64| {
            self.done.store(self.sides.size.saturating_sub(missing * self.sides.part), SeqCst);
        };
        let filled = copier.run(rate, &given_up, &progress).and_then(|()| {
            self.sides.set_status(side, Status::Equal);
            let era = self.sides.queues.hold_changes(&(0..0), CHANGES);
            self.sides.queues.go_on();
            era?;
            copier.flush(&given_up)
        });
        let failed = self.sides.failure(side);
        if filled.is_err() || failed.is_some() {
            if filled.is_err() && !self.sides.has_ended() {
                self.sides.give_up(side); // the map does not say that it is current
            }
            return Err(filled.err().unwrap_or_else(|| {
                let error = std::io::Error::from_raw_os_error(failed.unwrap_or(libc::EIO));
                Error::system("cannot write to the other disk", &error).kind(ErrorKind::Backend)
            }));
        }
        if let Some(map) = &self.map {
            let mut map = locked(map);
            let header = map.header();
            map.set_sides(header.current | 1 << side, header.unknown & !(1 << side))?;
        }
        self.report(format!("side {} of the mirror, {}, has all of it", side + 1, self.names[side]));
        Ok(())
    }
}

fn set_bits(bits: &Bits, end: u64) -> Vec<u64> {
    let (mut at, mut set) = (0, Vec::new());
    while let Some(bit) = bits.next_within(at..end) {
        set.push(bit);
        at = bit + 1;
    }
    set
}
